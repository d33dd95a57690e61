//! Whether all of the configuration could be read.

use crate::lint::{
    finding::{Facts, Finding, Format, Level, Rule},
    nginx::model::{Model, is_stock},
};

pub static UNREADABLE: Rule = Rule {
    id: "nginx-include-unreadable",
    format: Format::Nginx,
    level: Level::Warning,
    title: "an included file cannot be read",
    why: "nginx does not start without a file that it includes by name. Here the file is missing or not \
          readable, so no rule is applied to a setting that the file may hold. A relative name begins \
          at the directory of `nginx.conf`; `--root` names the tree that absolute names are in. Files of \
          nginx's own, such as `mime.types`, hold no such setting and may be absent.",
    versions: "all",
};

pub fn check(model: &Model<'_>, _: &Facts) -> Vec<Finding> {
    let found = model.unread.iter().filter(|include| !is_stock(include)).map(|include| {
        let name = include.arg(0).unwrap_or_default();
        let message = format!("{name} cannot be read");
        Finding::new(&UNREADABLE, include.place.clone(), message)
    });
    found.collect()
}
