//! Descriptors for a program to inherit, opened by `perl`, which every Debian has: a service manager in one line.

use culvert_netns::program::Program;

use crate::stage::Stage;

/// A TUN device that somebody else made. 0x400454ca is TUNSETIFF, 0x1001 is IFF_TUN | IFF_NO_PI (linux/if_tun.h).
pub(crate) fn tun(interface: &str) -> String {
    format!(
        "$^F=99; use Fcntl; sysopen(my $t,'/dev/net/tun',O_RDWR) or die $!; \
         my $r=pack('a16 s x22','{interface}',0x1001); ioctl($t,0x400454ca,$r) or die $!; \
         $ENV{{WG_TUN_FD}}=fileno($t); exec @ARGV or die $!;"
    )
}

/// A listening stream socket at `path`.
pub(crate) fn listening(path: &str) -> String {
    socket(&format!(
        "unlink '{path}'; bind($s,pack_sockaddr_un('{path}')) or die $!; listen($s,8) or die $!;"
    ))
}

/// A stream socket connected to `path`.
pub(crate) fn connected(path: &str) -> String {
    socket(&format!("connect($s,pack_sockaddr_un('{path}')) or die $!;"))
}

fn socket(what: &str) -> String {
    format!(
        "$^F=99; use Socket; socket(my $s,PF_UNIX,SOCK_STREAM,0) or die $!; {what} \
         $ENV{{WG_UAPI_FD}}=fileno($s); exec @ARGV or die $!;"
    )
}

/// The program under test with `arguments`, started by `script`.
pub(crate) fn started<'a>(stage: &Stage<'a>, script: &str, arguments: &[&str]) -> Program<'a> {
    stage
        .host()
        .program("perl")
        .arguments(&["-e", script, stage.path()])
        .arguments(arguments)
        .variable("WG_PROCESS_FOREGROUND", "1")
}
