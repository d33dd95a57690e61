//! Whatever a configuration holds, the lint returns, and each of its findings lies within its file.

#![no_main]

use std::path::Path;

use floodmark::lint::{
    Report,
    finding::{Facts, Format},
    root::Root,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let format = [Format::Nginx, Format::Haproxy, Format::Envoy][usize::from(kind % 3)];
    // Nothing that it includes is there.
    let root = Root::new(Path::new("/proc/self/fdinfo")).expect("procfs");
    let mut report = Report::default();
    let _ = report.look(format, &root, Path::new("/fuzz"), bytes, &Facts::default());
    for finding in &report.findings {
        let places = finding.also.iter().map(|(place, _)| place);
        let places = places.chain(finding.fixes.iter().map(|fix| &fix.place));
        for place in places.chain([&finding.place]) {
            let text = &report.texts.get(place.file).text;
            assert!(text.get(place.range()).is_some(), "{format:?} {place:?}");
        }
    }
});
