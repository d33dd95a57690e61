//! The order of Debian's versions, as deb-version(7) defines it, for versions without an epoch.

use std::cmp::Ordering;

/// Compares two versions: alternately their parts without digits and their numbers.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    while !left.is_empty() || !right.is_empty() {
        let words =
            (take(&mut left, |c| !c.is_ascii_digit()), take(&mut right, |c| !c.is_ascii_digit()));
        let numbers =
            (take(&mut left, |c| c.is_ascii_digit()), take(&mut right, |c| c.is_ascii_digit()));
        let order = weights(words.0)
            .cmp(weights(words.1))
            .then_with(|| magnitude(numbers.0).cmp(&magnitude(numbers.1)));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn take<'a>(rest: &mut &'a str, part: fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

/// A tilde sorts before the end, the end before letters, letters before everything else.
fn weights(word: &str) -> impl Iterator<Item = u32> {
    let weight = |c: char| match c {
        '~' => 0,
        c if c.is_ascii_alphabetic() => u32::from(c),
        c => u32::from(c) + 256,
    };
    word.chars().map(weight).chain([1])
}

/// Orders numbers of any length: fewer digits are less, then digit by digit.
fn magnitude(digits: &str) -> (usize, &str) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_dpkg_does() {
        // Each pair was given to `dpkg --compare-versions`.
        let ascending = [
            ("6.1.176-1", "6.1.192-2"),
            ("6.1.99-1", "6.1.100-1"),
            ("7.3~rc7-1~exp1", "7.3-1"),
            ("7.2.12-1~bpo13+1", "7.2.12-1"),
            ("6.12.115-1", "6.12.115-2"),
            ("6.12.117-1~deb12u1", "6.12.117-1"),
            ("1.0", "1.0a"),
            ("1.0a", "1.0+"),
            ("1.0", "1.0.1"),
        ];
        for (less, more) in ascending {
            assert_eq!(compare(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(compare(more, less), Ordering::Greater, "{more} {less}");
        }
        assert_eq!(compare("6.01", "6.1"), Ordering::Equal);
    }
}
