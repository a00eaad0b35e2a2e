//! The device mapper: a read-only block device that the kernel makes out of another one.
//!
//! Interface: `linux/dm-ioctl.h`, version 4.0.0.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// Devtmpfs makes it when the module is loaded.
const CONTROL: &str = "/dev/mapper/control";

/// `DM_IOCTL`, and the numbers of `DM_DEV_CREATE_CMD`, `DM_DEV_REMOVE_CMD`, `DM_DEV_SUSPEND_CMD`, `DM_TABLE_LOAD_CMD`.
const TYPE: u8 = 0xfd;
const CREATE: u8 = 3;
const REMOVE: u8 = 4;
const SUSPEND: u8 = 6;
const LOAD: u8 = 9;

/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;

/// The longest parameters of a target: a verity table takes some 400 bytes.
const PARAMETERS: usize = 2048;

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// What is handed over: the head, one target, its parameters.
#[repr(C)]
struct Request {
    head: Head,
    target: Target,
    parameters: [u8; PARAMETERS],
}

mod calls {
    use super::{CREATE, Head, LOAD, REMOVE, SUSPEND, TYPE};

    nix::ioctl_readwrite!(create, TYPE, CREATE, Head);
    nix::ioctl_readwrite!(remove, TYPE, REMOVE, Head);
    nix::ioctl_readwrite!(suspend, TYPE, SUSPEND, Head);
    nix::ioctl_readwrite!(load, TYPE, LOAD, Head);
}

type Call = unsafe fn(i32, *mut Head) -> nix::Result<i32>;

/// Makes the read-only device `name` out of one target over all its `sectors`, and gives its file.
pub fn make_read_only(name: &str, sectors: u64, target: &str, parameters: &str) -> io::Result<PathBuf> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    let mut made = request(name)?;
    call(&control, calls::create, &mut made)?;
    let ready = (|| {
        let mut table = request(name)?;
        table.head.flags = READ_ONLY;
        table.head.target_count = 1;
        table.target.length = sectors;
        put(&mut table.target.target_type, target)?;
        put(&mut table.parameters, parameters)?;
        call(&control, calls::load, &mut table)?;
        // Without its flag for suspending it lets the loaded table work.
        let mut resume = request(name)?;
        resume.head.flags = READ_ONLY;
        call(&control, calls::suspend, &mut resume)
    })();
    if let Err(error) = ready {
        let _ = request(name).and_then(|mut gone| call(&control, calls::remove, &mut gone));
        return Err(error);
    }
    Ok(Path::new("/dev").join(format!("dm-{}", libc::minor(made.head.dev))))
}

fn request(name: &str) -> io::Result<Box<Request>> {
    let mut request = Box::new(Request {
        head: Head {
            version: [4, 0, 0],
            data_size: u32::try_from(size_of::<Request>()).unwrap_or(u32::MAX),
            data_start: u32::try_from(size_of::<Head>()).unwrap_or(u32::MAX),
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        },
        target: Target { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; 16] },
        parameters: [0; PARAMETERS],
    });
    put(&mut request.head.name, name)?;
    Ok(request)
}

/// Writes a text and its end.
fn put(to: &mut [u8], text: &str) -> io::Result<()> {
    if text.len() >= to.len() || text.bytes().any(|byte| byte == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} does not fit")));
    }
    to[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

fn call(control: &File, what: Call, request: &mut Request) -> io::Result<()> {
    let whole: *mut Request = request;
    // SAFETY: the head is the first field of a `repr(C)` struct that lives during the call and that is `data_size` bytes
    // long, which is all that the kernel reads and writes; the descriptor is open.
    unsafe { what(control.as_raw_fd(), whole.cast::<Head>()) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!(size_of::<Head>(), 312);
        assert_eq!(std::mem::offset_of!(Head, dev), 40);
        assert_eq!(size_of::<Target>(), 40);
        assert_eq!(std::mem::offset_of!(Request, target), 312);
        assert_eq!(std::mem::offset_of!(Request, parameters), 352);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_not_cut() {
        let mut room = [0xff; 4];
        assert!(put(&mut room, "four").is_err() && put(&mut room, "a\0b").is_err());
        assert_eq!(room, [0xff; 4]);
        assert!(request(&"x".repeat(128)).is_err() && request(&"x".repeat(127)).is_ok());
    }
}
