//! What the rules read of a configuration: groups of servers, who passes requests to them, and which
//! directives are in force there.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    rc::Rc,
};

use super::tree::{Directive, Word};
use crate::lint::text::{Place, Texts};

/// Which of nginx's two worlds: they share no groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The scopes it stands in, outermost first; the first is outside all blocks.
    scopes: Vec<Rc<Scope<'a>>>,
}

/// The directives of a block, without those of the blocks in it.
#[derive(Debug)]
struct Scope<'a> {
    /// `None` outside all blocks.
    block: Option<&'a Directive>,
    directives: HashMap<&'a str, Vec<&'a Directive>>,
    /// Whether it includes a file that could not be read.
    has_unread: bool,
}

/// A configuration, as the rules see it.
pub struct Model<'a> {
    pub texts: &'a Texts,
    /// Outside all blocks.
    pub top: &'a [Directive],
    pub groups: Vec<Group<'a>>,
    pub passes: Vec<Pass<'a>>,
    /// All `server` blocks of `http` and `stream`.
    pub servers: Vec<&'a Directive>,
    /// Includes that could not be read.
    pub unread: Vec<&'a Directive>,
    /// Whether an included file is no configuration, and was left out.
    has_broken: bool,
    /// All `map`s, by the variable they set.
    maps: HashMap<&'a str, &'a Directive>,
    /// What variables are set to: a group's name, perhaps. `set` holds for its server.
    values: HashMap<(Option<Place>, &'a str), Vec<&'a str>>,
    /// By context and name in lower case.
    by_name: HashMap<(Context, String), usize>,
    /// For each group, which passes lead to it.
    users: Vec<Vec<usize>>,
}

/// Every directive that passes a request to a server.
const PASSES: [&str; 6] =
    ["proxy_pass", "fastcgi_pass", "grpc_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"];

/// Files that every package of nginx has, and that set nothing a rule reads.
const STOCK: [&str; 7] = [
    "mime.types",
    "fastcgi_params",
    "fastcgi.conf",
    "uwsgi_params",
    "scgi_params",
    "koi-utf",
    "win-utf",
];

/// Deepest chain of variables that is followed.
const DEEPEST_VALUE: usize = 4;

impl<'a> Model<'a> {
    pub fn of(top: &'a [Directive], texts: &'a Texts, has_broken: bool) -> Self {
        let mut model = Self {
            texts,
            top,
            has_broken,
            groups: Vec::new(),
            passes: Vec::new(),
            servers: Vec::new(),
            unread: Vec::new(),
            maps: HashMap::new(),
            values: HashMap::new(),
            by_name: HashMap::new(),
            users: Vec::new(),
        };
        let outside = Rc::new(Scope::of(None, top));
        model.collect(top, &mut vec![outside], Context::Http);
        model.find_users();
        model
    }

    fn collect(
        &mut self,
        directives: &'a [Directive],
        scopes: &mut Vec<Rc<Scope<'a>>>,
        context: Context,
    ) {
        for directive in directives {
            match directive.name.value.as_str() {
                "include" => self.unread.push(directive),
                "upstream" => {
                    let name = directive.arg(0).unwrap_or_default().to_ascii_lowercase();
                    self.by_name.entry((context, name)).or_insert(self.groups.len());
                    self.groups.push(Group { context, directive });
                    let includes = directive.inner().iter().filter(|inner| inner.is("include"));
                    self.unread.extend(includes);
                }
                "map" => {
                    let variable = directive.arg(1).unwrap_or_default();
                    self.maps.insert(variable, directive);
                    let values = directive.inner().iter().filter_map(|entry| entry.arg(0));
                    self.values.entry((None, variable)).or_default().extend(values);
                }
                "set" => {
                    let key = (server_of(scopes), directive.arg(0).unwrap_or_default());
                    self.values.entry(key).or_default().extend(directive.arg(1));
                }
                name if PASSES.contains(&name) => {
                    self.passes.push(Pass { context, directive, scopes: scopes.clone() });
                }
                name => {
                    let Some(inner) = &directive.block else { continue };
                    if name == "server" {
                        self.servers.push(directive);
                    }
                    let context = if name == "stream" { Context::Stream } else { context };
                    scopes.push(Rc::new(Scope::of(Some(directive), inner)));
                    self.collect(inner, scopes, context);
                    scopes.pop();
                }
            }
        }
    }

    fn find_users(&mut self) {
        let mut users = vec![Vec::new(); self.groups.len()];
        for (index, pass) in self.passes.iter().enumerate() {
            for group in self.groups_of(pass) {
                users[group].push(index);
            }
        }
        self.users = users;
    }

    /// Every group that a request may be passed to from here, by index.
    fn groups_of(&self, pass: &Pass<'a>) -> BTreeSet<usize> {
        if let Some(group) = self.index_of(pass) {
            return BTreeSet::from([group]);
        }
        let mut found = BTreeSet::new();
        self.follow(pass, pass.directive.arg(0).unwrap_or_default(), 0, &mut found);
        found
    }

    /// nginx looks a name that it computes up among the groups at each request
    /// (`ngx_http_upstream_init_request`).
    fn follow(&self, pass: &Pass<'a>, value: &str, depth: usize, found: &mut BTreeSet<usize>) {
        if depth == DEEPEST_VALUE {
            return;
        }
        let key = (pass.context, host(value).to_ascii_lowercase());
        found.extend(self.by_name.get(&key));
        for variable in variables(value) {
            let here = self.values.get(&(server_of(&pass.scopes), variable));
            let everywhere = self.values.get(&(None, variable));
            for value in here.into_iter().chain(everywhere).flatten() {
                self.follow(pass, value, depth + 1, found);
            }
        }
    }

    fn index_of(&self, pass: &Pass<'_>) -> Option<usize> {
        let target = pass.target()?;
        // Variables after a group's name are its URI: `http://group$request_uri`.
        let name = target.split('$').next().filter(|name| !name.is_empty())?;
        self.by_name.get(&(pass.context, name.to_ascii_lowercase())).copied()
    }

    /// The groups that requests are passed to, each with who passes them.
    pub fn used_groups(&self) -> impl Iterator<Item = (&Group<'a>, Vec<&Pass<'a>>)> {
        let passes = |users: &Vec<usize>| users.iter().map(|index| &self.passes[*index]).collect();
        let groups = self.groups.iter().zip(&self.users).filter(|(_, users)| !users.is_empty());
        groups.map(move |(group, users)| (group, passes(users)))
    }

    /// The group a request is passed to, where it is one.
    pub fn group_of(&self, pass: &Pass<'_>) -> Option<&Group<'a>> {
        self.index_of(pass).map(|index| &self.groups[index])
    }

    /// Whether `http` has a group of this name.
    pub fn has_group(&self, name: &str) -> bool {
        self.by_name.contains_key(&(Context::Http, name.to_ascii_lowercase()))
    }

    /// The `map` that sets a variable.
    pub fn map(&self, variable: &str) -> Option<&'a Directive> {
        self.maps.get(variable).copied()
    }

    /// Whether the target is a group, or may be one by its variables.
    pub fn leads_to_a_group(&self, pass: &Pass<'a>) -> bool {
        !self.groups_of(pass).is_empty()
    }

    /// How many workers: `None` where it is not to be known.
    pub fn workers(&self, processors: Option<u64>) -> Option<u64> {
        match self.top.iter().find(|directive| directive.is("worker_processes")) {
            Some(directive) if directive.arg(0) == Some("auto") => processors,
            Some(directive) => directive.arg(0)?.parse().ok(),
            // nginx's default.
            None => (self.is_whole() && !self.has_unread_at_top()).then_some(1),
        }
    }

    /// Whether there is more than one worker, as far as the configuration says.
    pub fn has_workers(&self) -> bool {
        self.workers(Some(2)).is_some_and(|workers| workers > 1)
    }

    /// Whether this is all of it, and not a piece for another file to include.
    pub fn is_whole(&self) -> bool {
        self.top.iter().any(|directive| directive.is("events"))
    }

    /// Whether a file that could not be read may define groups.
    pub fn may_have_more_groups(&self) -> bool {
        !self.is_whole() || self.has_broken || self.unread.iter().any(|include| !is_stock(include))
    }

    fn has_unread_at_top(&self) -> bool {
        self.top.iter().any(|directive| directive.is("include") && !is_stock(directive))
    }
}

/// Whether an include leads to a file that sets nothing a rule reads.
pub fn is_stock(include: &Directive) -> bool {
    let name = include.arg(0).and_then(|path| path.rsplit('/').next());
    name.is_some_and(|name| STOCK.contains(&name))
}

fn server_of(scopes: &[Rc<Scope<'_>>]) -> Option<Place> {
    let blocks = scopes.iter().rev().filter_map(|scope| scope.block);
    blocks.filter(|block| block.is("server")).map(|server| server.place.clone()).next()
}

/// The variables in a value, each with its `$`, without braces.
fn variables(value: &str) -> impl Iterator<Item = &str> {
    value.match_indices('$').filter_map(|(at, _)| {
        let rest = &value[at + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        (length > 0).then(|| &value[at..at + 1 + length])
    })
}

impl<'a> Scope<'a> {
    fn of(block: Option<&'a Directive>, inner: &'a [Directive]) -> Self {
        let mut directives: HashMap<&str, Vec<&Directive>> = HashMap::new();
        for directive in inner.iter().filter(|directive| directive.block.is_none()) {
            directives.entry(directive.name.value.as_str()).or_default().push(directive);
        }
        let has_unread =
            directives.get("include").is_some_and(|unread| unread.iter().any(|i| !is_stock(i)));
        Self { block, directives, has_unread }
    }

    fn named(&self, name: &str) -> &[&'a Directive] {
        self.directives.get(name).map_or(&[], Vec::as_slice)
    }
}

impl<'a> Group<'a> {
    pub fn name(&self) -> &'a str {
        self.directive.arg(0).unwrap_or_default()
    }

    fn all_servers(&self) -> impl Iterator<Item = Server<'a>> {
        let servers = self.directive.inner().iter().filter(|directive| directive.is("server"));
        servers.map(|directive| Server { directive })
    }

    /// The servers that take requests; `down` ones do not.
    pub fn servers(&self) -> Vec<Server<'a>> {
        self.all_servers().filter(|server| !server.has("down")).collect()
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

    /// Whether it includes a file that could not be read: its servers and settings are unknown.
    pub fn has_unread(&self) -> bool {
        self.find("include").is_some()
    }

    /// Whether all its servers are Unix sockets.
    pub fn is_unix(&self) -> bool {
        self.all_servers().all(|server| server.address().starts_with("unix:"))
    }

    /// How many peers nginx counts at least: every address of every server, `down` and `backup` ones too
    /// (`ngx_http_upstream_init_round_robin`). A name other than `localhost` counts once here.
    pub fn peers(&self) -> usize {
        self.all_servers().map(|server| if is_localhost(server.address()) { 2 } else { 1 }).sum()
    }

    /// Whether nginx gives up on a failing server: it does where it counts more than one peer
    /// (`peers->single`) and the server's `max_fails` is not 0.
    pub fn can_be_marked(&self) -> bool {
        let is_counted = |server: &Server<'_>| server.max_fails() != Some(0);
        !self.is_lua() && self.peers() > 1 && self.servers().iter().any(is_counted)
    }

    /// Its only peer, where there is no other and never will be.
    pub fn only_server(&self) -> Option<Server<'a>> {
        let mut servers = self.all_servers();
        let only = servers.next()?;
        (servers.next().is_none() && only.is_one_address()).then_some(only)
    }
}

/// Whether an address is `localhost`, with or without a port: usually 127.0.0.1 and ::1.
pub fn is_localhost(address: &str) -> bool {
    address.split(':').next().is_some_and(|host| host.eq_ignore_ascii_case("localhost"))
}

/// Whether an address is an IP address or a Unix socket, which no name server is asked for.
pub fn is_literal(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    address.starts_with("unix:") || address.starts_with('[') || host.parse::<Ipv4Addr>().is_ok()
}

impl<'a> Server<'a> {
    pub fn address(&self) -> &'a str {
        self.directive.arg(0).unwrap_or_default()
    }

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

    /// `max_fails`, where it is set.
    pub fn max_fails(&self) -> Option<u64> {
        self.parameter("max_fails")?.0.parse().ok()
    }

    /// How long it is taken out, in seconds.
    pub fn fail_timeout(&self) -> f64 {
        self.parameter("fail_timeout").and_then(|(value, _)| seconds(value)).unwrap_or(10.0)
    }

    fn is_one_address(&self) -> bool {
        is_literal(self.address()) && !self.has("resolve")
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

    /// The blocks it stands in, outermost first.
    pub fn blocks(&self) -> impl DoubleEndedIterator<Item = &'a Directive> {
        self.scopes.iter().filter_map(|scope| scope.block)
    }

    /// The `if` or `limit_except` it stands in: these take few directives beside it.
    pub fn condition(&self) -> Option<&'a Directive> {
        self.blocks().next_back().filter(|block| block.is("if") || block.is("limit_except"))
    }

    /// Where a directive for it is put: beside it, or beside the condition it stands in.
    pub fn anchor(&self) -> &'a Directive {
        self.condition().unwrap_or(self.directive)
    }

    /// The directives of this name, by the block that holds them, innermost first.
    fn levels(&self, name: &str) -> impl Iterator<Item = &[&'a Directive]> {
        self.scopes.iter().rev().map(|scope| scope.named(name)).filter(|found| !found.is_empty())
    }

    /// The directives of this name in force here: those of the innermost block that has any, for
    /// nginx inherits all or none.
    pub fn effective(&self, name: &str) -> Vec<&'a Directive> {
        self.levels(name).next().unwrap_or_default().to_vec()
    }

    /// Whether what is in force is known: no file that could not be read may have set it. A directive
    /// that may stand there only once can be in no other file where it is in this one.
    pub fn knows(&self, name: &str) -> bool {
        let may_repeat = ["proxy_set_header", "error_log"].contains(&name);
        let mut scopes = self.scopes.iter().rev();
        let decisive = scopes.find(|scope| scope.has_unread || !scope.named(name).is_empty());
        decisive
            .is_none_or(|scope| !scope.has_unread || (!may_repeat && !scope.named(name).is_empty()))
    }

    /// The directive in force here, where only one of this name can be.
    pub fn only(&self, name: &str) -> Option<&'a Directive> {
        self.levels(name).next()?.last().copied()
    }

    /// All directives of this name around it that are not in force, because a block further in has
    /// some of its own.
    pub fn hidden(&self, name: &str) -> Vec<&'a Directive> {
        self.levels(name).skip(1).flatten().copied().collect()
    }

    /// Whether the directives of this name in force stand in the same block as the pass, or the block
    /// around its condition.
    pub fn has_own(&self, name: &str) -> bool {
        let conditions = if self.condition().is_some() { 2 } else { 1 };
        self.scopes.iter().rev().take(conditions).any(|scope| !scope.named(name).is_empty())
    }

    /// The `server` it stands in.
    pub fn server(&self) -> Option<&'a Directive> {
        self.blocks().rev().find(|block| block.is("server"))
    }
}

/// Of a URL what stands for the server. A path may follow as a variable: `http://group$request_uri`.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if let Some(path) = rest.strip_prefix("unix:") {
        // `unix:/run/app.sock:/uri`: the URI comes after a colon.
        return path.find(':').map_or(rest, |at| &rest[..at + "unix:".len()]);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    match authority.find('$') {
        Some(at) if at > 0 && is_path(&authority[at..]) => &authority[..at],
        _ => authority,
    }
}

/// Whether a variable holds a path, or a part of one.
fn is_path(variable: &str) -> bool {
    let name = variable.trim_start_matches(['$', '{']);
    let paths = ["request_uri", "uri", "document_uri", "is_args"];
    name.starts_with(|c: char| c.is_ascii_digit())
        || paths.iter().any(|path| name.starts_with(path))
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
        look(&Model::of(&tree, &texts, false))
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
