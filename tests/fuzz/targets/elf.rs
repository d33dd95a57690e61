//! Whatever file a process runs or maps, it is read within its bounds.

#![no_main]

use std::io::Cursor;

use floodmark::{inventory::is_go, proxy::uprobe};
use libfuzzer_sys::fuzz_target;

/// A header that leads on to the rest: few inputs would begin with one by chance.
fn header(class: u8) -> [u8; 7] {
    [0x7f, b'E', b'L', b'F', class, 1, 1]
}

fuzz_target!(|input: &[u8]| {
    let of_class = |class: u8| {
        let mut file = input.to_vec();
        let header = header(class);
        let length = header.len().min(file.len());
        file[..length].copy_from_slice(&header[..length]);
        file
    };
    for file in [input.to_vec(), of_class(1), of_class(2)] {
        let functions = ["ngx_event_connect_peer", "a"];
        let offsets = uprobe::offsets(&file, &functions).unwrap_or_default();
        assert!(offsets.len() <= functions.len());
        assert!(uprobe::version(&file).is_none_or(|version| version.len() <= 3 * 64));
        is_go(Cursor::new(file));
    }
});
