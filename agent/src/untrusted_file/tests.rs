use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
};

use nix::unistd::mkfifo;

use super::*;

fn refusal(path: &Path) -> String {
    let error = open(path).expect_err("it must be refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    error.to_string()
}

#[test]
fn only_regular_files_are_opened_and_nothing_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    mkfifo(&at("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    symlink("/dev/zero", at("device")).unwrap();
    symlink("/proc/version", at("procfs")).unwrap();
    symlink("/sys/kernel/notes", at("sysfs")).unwrap();
    assert_eq!(refusal(&at("fifo")), "is a FIFO, not a regular file");
    assert_eq!(refusal(&at("socket")), "is a socket, not a regular file");
    assert_eq!(refusal(&at("device")), "is a device, not a regular file");
    assert_eq!(refusal(directory.path()), "is a directory, not a regular file");
    let pseudo = "not on a file system that stores data";
    assert_eq!(refusal(&at("procfs")), format!("is on procfs, {pseudo}"));
    assert_eq!(refusal(&at("sysfs")), format!("is on sysfs, {pseudo}"));
    let missing = open(&at("missing")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn a_link_names_no_descriptor_but_the_operator_may() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "text").unwrap();
    let file = File::open(directory.path().join("file")).unwrap();
    let descriptor = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    symlink(&descriptor, directory.path().join("link")).unwrap();
    assert!(refusal(&directory.path().join("link")).contains("one of procfs"));
    assert_eq!(read(&descriptor, 4).unwrap(), b"text");
    assert_eq!(read_all(open_magic_link(&descriptor).unwrap(), 4).unwrap(), b"text");
}

#[test]
fn links_stay_below_the_root_of_a_process() {
    let parts = |path: &str| in_process_root(Path::new(path));
    let split = Some(("/proc/7/root".into(), "var/log/x".into()));
    assert_eq!(parts("/proc/7/root/var/log/x"), split);
    for other in ["/proc/7/root", "/proc/7/exe", "/proc/rooted/x", "/var/proc/7/root/x", "proc"] {
        assert_eq!(parts(other), None, "{other}");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "text").unwrap();
    let below = Path::new("/proc/self/root").join(directory.path().strip_prefix("/").unwrap());
    assert_eq!(read(&below.join("file"), 4).unwrap(), b"text");
}

#[test]
fn what_is_read_has_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, [0xff; 1025]).unwrap();
    assert_eq!(read(&file, 1025).unwrap().len(), 1025);
    let error = read(&file, 1024).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::FileTooLarge, "is larger than 1 KiB".to_owned())
    );
    let error = read_to_string(&file, 2048).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::InvalidData, "is not UTF-8".into()));
    assert_eq!(read_all(io::repeat(0), 16).unwrap_err().to_string(), "is larger than 16 bytes");
    assert_eq!(read_procfs(Path::new("/proc/self/maps"), 100).unwrap().len(), 100);
}

#[test]
fn every_pseudo_file_system_of_this_host_is_known() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    for (place, name) in fields {
        let Some((magic, _)) = PSEUDO.iter().find(|(_, pseudo)| *pseudo == name) else { continue };
        // One that is mounted over cannot be looked at.
        let Ok(found) = nix::sys::statfs::statfs(place) else { continue };
        let is_hidden = mounts.matches(&format!(" {place} ")).count() > 1;
        assert!(is_hidden || found.filesystem_type().0 as u32 == *magic, "{name} at {place}");
    }
}
