//! What whoever takes over a daemon would try first. Behind the feature `probe`, which no release has.

use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Stands in every program that was built with the feature, and is looked for in those that must not have been.
pub const MARKER: &str = "culvert-probe-build: this program attacks its host on request";

/// One thing that a daemon must not do.
#[derive(Debug, Clone)]
pub enum Attempt {
    /// To trace another process.
    Trace,
    /// To see what others send.
    PacketSocket,
    /// Memory that is writable and executable.
    WritableCode,
    /// Another program.
    Execute,
    /// To write a file.
    Write(PathBuf),
    /// To reach somebody else.
    Connect(SocketAddr),
}

impl Attempt {
    /// By its name; some need a target.
    pub fn parse(name: &str, target: &str) -> Result<Attempt, String> {
        match name {
            "trace" => Ok(Self::Trace),
            "packet_socket" => Ok(Self::PacketSocket),
            "writable_code" => Ok(Self::WritableCode),
            "execute" => Ok(Self::Execute),
            "write" => Ok(Self::Write(target.into())),
            "connect" => target.parse().map(Self::Connect).map_err(|error| format!("target: {error}")),
            other => Err(format!("there is no attempt {other:?}")),
        }
    }

    /// Tries it, on the calling thread.
    pub fn make(&self) -> io::Result<()> {
        match self {
            Self::Trace => trace(),
            Self::PacketSocket => {
                let (family, all) = (AddressFamily::Packet, SockProtocol::EthAll);
                Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).map(drop)?)
            }
            Self::WritableCode => writable_code(),
            Self::Execute => {
                // Not by way of a new process: `execve` itself.
                let program = c"/bin/true";
                match nix::unistd::execve(program, &[program], &[] as &[&std::ffi::CStr])? {}
            }
            Self::Write(path) => {
                use std::io::Write as _;
                OpenOptions::new().write(true).create(true).truncate(false).open(path)?.write_all(b"taken")
            }
            Self::Connect(address) => TcpStream::connect(address).map(drop),
        }
    }
}

fn trace() -> io::Result<()> {
    // SAFETY: PTRACE_TRACEME takes no further argument and touches no memory.
    let answer = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn writable_code() -> io::Result<()> {
    const BYTES: usize = 4096;
    let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, access, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping that was just made, which nobody refers to.
    unsafe { libc::munmap(start, BYTES) };
    Ok(())
}
