use super::*;

#[test]
fn a_host_and_its_clock_are_shown() {
    let text = render(&example()).unwrap();
    for line in [
        "floodmark_correlate_connected 0",
        "floodmark_correlate_hosts 1",
        "floodmark_correlate_host_clock_offset_seconds{host=\"app1\"} -2.5",
        "floodmark_correlate_host_clock_error_seconds{host=\"app1\"} 0.003",
        "floodmark_correlate_host_silent_seconds{host=\"app1\"} 12",
        "floodmark_correlate_host_messages_missing_total{host=\"app1\"} 4",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}
