//! What of a configuration the rules ask for: groups of servers, who passes requests to them, and
//! which directives are in force there.

use super::tree::{Directive, Word};
use crate::lint::text::Texts;

/// Which of nginx's two worlds: they share no groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `http { }`
    Http,
    /// `stream { }`
    Stream,
}

/// An `upstream { }`.
#[derive(Debug)]
pub struct Group<'a> {
    pub context: Context,
    pub directive: &'a Directive,
}

/// A `server` of a group.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    pub directive: &'a Directive,
}

/// A `proxy_pass`, or what does the same by another protocol.
#[derive(Debug)]
pub struct Pass<'a> {
    pub context: Context,
    pub directive: &'a Directive,
    /// Outside all blocks.
    top: &'a [Directive],
    /// The blocks it stands in, outermost first.
    pub blocks: Vec<&'a Directive>,
}

/// A configuration, as the rules see it.
pub struct Model<'a> {
    pub texts: &'a Texts,
    /// Outside all blocks.
    pub top: &'a [Directive],
    pub groups: Vec<Group<'a>>,
    pub passes: Vec<Pass<'a>>,
    /// All `map`s.
    pub maps: Vec<&'a Directive>,
    /// What variables are set to: a group's name, perhaps.
    values: Vec<&'a str>,
}

/// Whatever hands a request on to a server.
const PASSES: [&str; 6] =
    ["proxy_pass", "fastcgi_pass", "grpc_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"];

impl<'a> Model<'a> {
    pub fn of(top: &'a [Directive], texts: &'a Texts) -> Self {
        let (groups, passes, maps, values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut model = Self { texts, top, groups, passes, maps, values };
        model.collect(top, &mut Vec::new(), Context::Http);
        model
    }

    fn collect(
        &mut self,
        directives: &'a [Directive],
        blocks: &mut Vec<&'a Directive>,
        context: Context,
    ) {
        for directive in directives {
            match directive.name.value.as_str() {
                "upstream" => self.groups.push(Group { context, directive }),
                "map" => {
                    self.maps.push(directive);
                    self.values.extend(directive.inner().iter().filter_map(|entry| entry.arg(0)));
                }
                "set" => self.values.extend(directive.arg(1)),
                name if PASSES.contains(&name) => {
                    let (top, blocks) = (self.top, blocks.clone());
                    self.passes.push(Pass { context, directive, top, blocks });
                }
                name => {
                    let context = if name == "stream" { Context::Stream } else { context };
                    blocks.push(directive);
                    self.collect(directive.inner(), blocks, context);
                    blocks.pop();
                }
            }
        }
    }

    /// The groups that requests are passed to, each with who passes them.
    pub fn used_groups(&self) -> impl Iterator<Item = (&Group<'a>, Vec<&Pass<'a>>)> {
        self.groups.iter().filter_map(|group| {
            let is_named = self.values.iter().any(|value| host(value) == group.name());
            let leads_here = |pass: &&Pass<'a>| {
                let target = pass.target().unwrap_or_default();
                let may_be = is_named && target.contains('$');
                pass.context == group.context && (target == group.name() || may_be)
            };
            let passes: Vec<_> = self.passes.iter().filter(leads_here).collect();
            (!passes.is_empty()).then_some((group, passes))
        })
    }

    /// The group a request is passed to, where it is one.
    pub fn group_of(&self, pass: &Pass<'_>) -> Option<&Group<'a>> {
        let target = pass.target()?;
        self.groups.iter().find(|group| group.context == pass.context && group.name() == target)
    }

    /// How many workers: `None` where it is not to be known.
    pub fn workers(&self, processors: Option<u64>) -> Option<u64> {
        match self.top.iter().find(|directive| directive.is("worker_processes")) {
            Some(directive) if directive.arg(0) == Some("auto") => processors,
            Some(directive) => directive.arg(0)?.parse().ok(),
            // nginx's default.
            None => self.is_whole().then_some(1),
        }
    }

    /// Whether there is more than one worker, as far as the configuration message.
    pub fn has_workers(&self) -> bool {
        self.workers(Some(2)).is_some_and(|workers| workers > 1)
    }

    /// Whether this is all of it, and not a piece for another file to include.
    pub fn is_whole(&self) -> bool {
        self.top.iter().any(|directive| directive.is("events"))
    }
}

impl<'a> Group<'a> {
    pub fn name(&self) -> &'a str {
        self.directive.arg(0).unwrap_or_default()
    }

    /// The servers that take requests; `down` ones do not.
    pub fn servers(&self) -> Vec<Server<'a>> {
        let servers = self.directive.inner().iter().filter(|directive| directive.is("server"));
        servers.map(|directive| Server { directive }).filter(|s| !s.has("down")).collect()
    }

    /// A directive of the group.
    pub fn find(&self, name: &str) -> Option<&'a Directive> {
        self.directive.inner().iter().find(|directive| directive.is(name))
    }

    /// Connections that a worker keeps open; `None` where nothing is said of it.
    pub fn keepalive(&self) -> Option<u64> {
        self.find("keepalive")?.arg(0)?.parse().ok()
    }

    /// Whether Lua chooses the server: the ones written down are for show.
    pub fn is_lua(&self) -> bool {
        let is_lua = |directive: &Directive| directive.name.value.starts_with("balancer_by_lua");
        self.directive.inner().iter().any(is_lua)
    }

    /// Whether a failing server can be given up on: a single one never is.
    pub fn can_be_marked(&self) -> bool {
        !self.is_lua() && self.servers().len() > 1
    }
}

impl<'a> Server<'a> {
    pub fn has(&self, word: &str) -> bool {
        self.directive.args.iter().skip(1).any(|arg| arg.value == word)
    }

    /// `name=value` of a server.
    pub fn parameter(&self, name: &str) -> Option<(&'a str, &'a Word)> {
        self.directive.args.iter().skip(1).find_map(|word| {
            let value = word.value.strip_prefix(name)?.strip_prefix('=')?;
            Some((value, word))
        })
    }

    /// Whether its name may stand for several addresses, which DNS tells.
    pub fn may_be_several(&self) -> bool {
        let address = self.directive.arg(0).unwrap_or_default();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let is_literal = host.starts_with("unix") || host.starts_with('[');
        !is_literal && host.parse::<std::net::Ipv4Addr>().is_err() && host != "localhost"
    }
}

impl<'a> Pass<'a> {
    /// `proxy_`, `fastcgi_`, ... of the directives that belong to it.
    pub fn prefix(&self) -> &'a str {
        self.directive.name.value.strip_suffix("pass").unwrap_or_default()
    }

    /// The group or host it leads to, or the variable.
    pub fn target(&self) -> Option<&'a str> {
        self.directive.arg(0).map(host)
    }

    /// The directives of this name, by the block that holds them, innermost first.
    fn levels(&self, name: &str) -> impl Iterator<Item = Vec<&'a Directive>> {
        let inner = self.blocks.iter().rev().map(|block| block.inner());
        let named = |scope: &'a [Directive]| -> Vec<&'a Directive> {
            scope.iter().filter(|directive| directive.is(name)).collect()
        };
        let levels: Vec<_> = inner.chain([self.top]).map(named).collect();
        levels.into_iter().filter(|found| !found.is_empty())
    }

    /// The directives of this name in force here: those of the innermost block that has any, for
    /// nginx inherits all or none.
    pub fn effective(&self, name: &str) -> Vec<&'a Directive> {
        self.levels(name).next().unwrap_or_default()
    }

    /// The directive in force here, where only one of this name can be.
    pub fn only(&self, name: &str) -> Option<&'a Directive> {
        self.effective(name).pop()
    }

    /// All directives of this name around it that are not in force, because a block further in has
    /// some of its own.
    pub fn hidden(&self, name: &str) -> Vec<&'a Directive> {
        self.levels(name).skip(1).flatten().collect()
    }

    /// The `server` it stands in.
    pub fn server(&self) -> Option<&'a Directive> {
        self.blocks.iter().rev().copied().find(|block| block.is("server"))
    }
}

/// Of a URL what stands for the server.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if rest.starts_with("unix:") { rest } else { rest.split('/').next().unwrap_or(rest) }
}

/// nginx's times: `60`, `60s`, `1500ms`, `1m 30s`; in seconds.
pub fn seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = if rest.starts_with("ms") {
            (0.001, 2)
        } else {
            let unit = match rest.bytes().next() {
                None | Some(b's' | b' ') => 1.0,
                Some(b'm') => 60.0,
                Some(b'h') => 3600.0,
                Some(b'd') => 86_400.0,
                Some(_) => return None,
            };
            (unit, rest.len().min(1))
        };
        total += number * unit;
        rest = rest[length..].trim_start();
    }
    (!text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::nginx::tree::parse;

    fn with<T>(text: &str, look: impl FnOnce(&Model<'_>) -> T) -> T {
        let mut texts = Texts::default();
        let file = texts.add("nginx.conf", text.as_bytes());
        let tree = parse(file, text).unwrap();
        look(&Model::of(&tree, &texts))
    }

    #[test]
    fn a_block_with_headers_of_its_own_inherits_none() {
        let text = "http { proxy_set_header Connection \"\"; upstream a { server x; }
            server { location / { proxy_pass http://a/p; }
                     location /b { proxy_set_header Host h; proxy_pass http://a; } } }";
        with(text, |model| {
            let [plain, own] = &model.passes[..] else { panic!("{:?}", model.passes) };
            assert_eq!(plain.effective("proxy_set_header")[0].arg(0), Some("Connection"));
            assert_eq!(own.effective("proxy_set_header")[0].arg(0), Some("Host"));
            assert_eq!(own.hidden("proxy_set_header")[0].arg(0), Some("Connection"));
            assert_eq!(model.used_groups().next().unwrap().1.len(), 2);
        });
    }

    #[test]
    fn groups_of_the_two_worlds_are_apart() {
        let text = "stream { upstream a { server x; } server { proxy_pass a; } }
            http { upstream a { server y; } }";
        with(text, |model| {
            let used: Vec<_> = model.used_groups().map(|(group, _)| group.context).collect();
            assert_eq!(used, [Context::Stream]);
        });
    }

    #[test]
    fn times_are_read_as_nginx_reads_them() {
        for (text, expected) in [
            ("60", Some(60.0)),
            ("1m 30s", Some(90.0)),
            ("1h30m", Some(5400.0)),
            ("1500ms", Some(1.5)),
            ("x", None),
            ("", None),
            ("5y", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn the_number_of_workers_is_known_or_not() {
        with("events {}", |model| assert_eq!(model.workers(Some(8)), Some(1)));
        with("worker_processes auto;", |model| assert_eq!(model.workers(Some(8)), Some(8)));
        with("upstream a {}", |model| assert_eq!(model.workers(Some(8)), None));
    }
}
