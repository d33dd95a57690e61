//! Whether a request, as the client sent it, holds a line.

use memchr::memchr_iter;

/// Rounds of decoding: one for the path, one for each program that passes an encoded one on.
const MOST_ROUNDS: usize = 3;

/// Whether any line feed is percent-encoded in `line`, however often over (`%0a`, `%250A`).
pub(super) fn is_encoded(line: &[u8]) -> bool {
    memchr_iter(b'%', line).any(|at| {
        let mut rest = &line[at + 1..];
        while let Some(again) = rest.strip_prefix(b"25") {
            rest = again;
        }
        matches!(rest, [b'0', b'a' | b'A', ..])
    })
}

/// Whether `request`, decoded, has a line feed and behind it the characters of `line` in their order.
pub(super) fn holds(request: &[u8], line: &[u8]) -> bool {
    let mut decoded = request.to_vec();
    for _ in 0..MOST_ROUNDS {
        let next = decode(&decoded);
        if next == decoded {
            return false;
        }
        decoded = next;
        if let Some(at) = memchr::memchr(b'\n', &decoded)
            && is_subsequence(line, &decoded[at + 1..])
        {
            return true;
        }
    }
    false
}

fn is_subsequence(of: &[u8], text: &[u8]) -> bool {
    let mut text = text.iter();
    of.iter().all(|byte| text.any(|other| other == byte))
}

/// Decodes `%XX` once, as `ngx_http_parse_complex_uri` does.
fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let (byte, next) = match (first, behind) {
            (b'%', [high, low, next @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, next),
                _ => (*first, behind),
            },
            _ => (*first, behind),
        };
        decoded.push(byte);
        rest = next;
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_feed_is_found_however_it_is_encoded() {
        for line in ["GET /x%0ay", "GET /x%0Ay", "%250a", "%25250A"] {
            assert!(is_encoded(line.as_bytes()), "{line}");
        }
        for line in ["GET /x%0dy", "%", "%0", "%2a0a", "10%25 0a"] {
            assert!(!is_encoded(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn a_request_holds_what_its_path_becomes() {
        for (request, line) in [
            ("GET /x%0a2026/11/28 [error] a%0ay HTTP/1.1", "2026/11/28 [error] a"),
            ("GET /x%0A2026//11/./28%20%5berror] a%0ay", "2026/11/28 [error] a"),
            ("GET /x%0ano%20/junk/../live", "no /live"),
            ("GET /x%250ano%2520live", "no live"),
            ("GET /%zz%0ab", "b"),
        ] {
            assert!(holds(request.as_bytes(), line.as_bytes()), "{request}");
        }
        for (request, line) in [
            ("GET /b%0ax HTTP/1.1", "b"),
            ("GET /xb", "b"),
            ("GET /%0ab", "c"),
            ("GET /%0a20%", "20%3"),
        ] {
            assert!(!holds(request.as_bytes(), line.as_bytes()), "{request}");
        }
    }
}
