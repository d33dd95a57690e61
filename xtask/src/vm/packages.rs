//! Which packages make up the newest kernel of a series.

use super::version;

/// A kernel as Debian offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What `uname -r` will say.
    pub release: String,
    /// Debian's version of the packages.
    pub version: String,
    /// The packages to unpack.
    pub packages: Vec<String>,
}

impl Offer {
    /// The packages as `apt-get download` takes them.
    pub fn named_with_version(&self) -> Vec<String> {
        self.packages.iter().map(|name| format!("{name}={}", self.version)).collect()
    }
}

/// An image package smaller than this is a name that leads to others, not a kernel.
const SMALLEST_IMAGE: u64 = 1 << 20;
/// The kernels built for virtual machines: small, with BTF and all that eBPF hooks need.
pub const FLAVOUR: &str = "-cloud-amd64";

/// The newest kernel of `series` in what `apt-cache dumpavail` printed.
pub fn newest(available: &str, series: &str) -> Option<Offer> {
    let mut offers: Vec<Offer> =
        available.split("\n\n").filter_map(|stanza| offer(stanza, series)).collect();
    offers.sort_by(|a, b| {
        version::compare(&a.version, &b.version)
            .then_with(|| version::compare(&a.release, &b.release))
    });
    offers.pop()
}

/// What one package offers. Until 6.18 the kernel and its modules are one package, `linux-image`;
/// since then they are several, and `linux-image` is empty.
fn offer(stanza: &str, series: &str) -> Option<Offer> {
    let package = field(stanza, "Package")?;
    let version = field(stanza, "Version")?;
    let (kind, release) = ["linux-image-", "linux-binary-"]
        .into_iter()
        .find_map(|kind| Some((kind, package.strip_prefix(kind)?)))?;
    let number = release.strip_suffix(FLAVOUR)?;
    if !is_of(number, series) || !is_of(version, series) {
        return None;
    }
    let packages = if kind == "linux-binary-" {
        ["linux-binary-", "linux-modules-", "linux-base-"]
            .map(|part| format!("{part}{release}"))
            .to_vec()
    } else if field(stanza, "Size")?.parse::<u64>().ok()? >= SMALLEST_IMAGE {
        vec![package.to_owned()]
    } else {
        return None;
    };
    Some(Offer { release: release.to_owned(), version: version.to_owned(), packages })
}

/// Whether a version or release belongs to a series: 6.1.192-2 does to 6.1, 6.12 does not.
pub fn is_of(version: &str, series: &str) -> bool {
    version.strip_prefix(series).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(packages: &[(&str, &str, u32)]) -> String {
        packages
            .iter()
            .map(|(name, version, size)| {
                format!("Package: {name}\nVersion: {version}\nSize: {size}\n\n")
            })
            .collect()
    }

    #[test]
    fn takes_the_newest_image_of_the_series_and_no_other() {
        let available = available(&[
            ("linux-image-6.1.0-9-cloud-amd64", "6.1.99-1", 26_000_000),
            ("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2", 26_000_000),
            ("linux-image-6.1.0-56-amd64", "6.1.192-2", 68_000_000),
            ("linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1", 34_000_000),
            ("linux-image-6.1-cloud-amd64", "6.1.200-1", 1504),
            ("linux-image-cloud-amd64", "6.1.200-1", 1504),
        ]);
        let newest = newest(&available, "6.1").unwrap();
        assert_eq!(newest.release, "6.1.0-56-cloud-amd64");
        assert_eq!(newest.packages, ["linux-image-6.1.0-56-cloud-amd64"]);
    }

    #[test]
    fn takes_all_parts_of_a_split_kernel() {
        let available = available(&[
            ("linux-image-7.3-cloud-amd64", "7.3~rc7-1~exp1", 1916),
            ("linux-binary-7.3-cloud-amd64", "7.3~rc7-1~exp1", 13_885_624),
            ("linux-binary-unsigned-7.3-cloud-amd64", "7.3~rc7-1~exp1", 13_884_228),
        ]);
        let newest = newest(&available, "7.3").unwrap();
        assert_eq!(newest.release, "7.3-cloud-amd64");
        assert_eq!(
            newest.packages,
            [
                "linux-binary-7.3-cloud-amd64",
                "linux-modules-7.3-cloud-amd64",
                "linux-base-7.3-cloud-amd64"
            ]
        );
    }

    #[test]
    fn a_series_that_is_gone_offers_nothing() {
        assert_eq!(newest(&available(&[("linux-image-cloud-amd64", "7.4-1", 9)]), "7.3"), None);
    }
}
