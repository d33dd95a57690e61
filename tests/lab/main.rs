//! `floodmark-lab`: the lab's command, and process 1 of a test guest.

fn main() {
    if std::process::id() == 1 {
        floodmark_tests::guest::init();
    }
}
