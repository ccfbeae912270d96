//! Servers made to harm: whatever one does, `agent copy-closure` ends well or with a clean error.
//!
//! Each case is one entry in a list of its subject: a name, how the run ends when nobody else has
//! the closure, what it says then, and the script of the server. [`check`] does the rest: bounded
//! memory, disk, time and traffic; nothing valid that is not whole; nothing left behind that the
//! next run does not remove; and an honest cache behind the liar delivers all the same.

mod archives;
mod bodies;
mod cache_info;
mod codecs;
mod heads;
mod hints;
mod loris;
mod narinfos;
mod redirects;
mod resume;
mod storms;
mod tls;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use shared::{closure::ClosureIndex, hints::Hints, nix::narinfo::Compression};
use tests::{
    Answer, Ask, Bounds, FaultServer, Goods, Nix, Ran,
    fault::{Identity, Script},
    run_bounded, scratch, shoal,
};

/// Cases that run at the same time; most of them wait for a server that does not hurry.
const WORKERS: usize = 8;
/// Most memory that a run may take, in bytes.
const MEMORY: u64 = 64 << 20;
/// The largest file that a run may write: Nix's reserve has 8 MiB, and every bomb is larger.
const FILE: u64 = 16 << 20;
/// After how many seconds a run counts as hanging.
const HANGS: u64 = 240;
/// Most bytes that a server gets rid of; the kernel's buffers hold some of them.
const TRAFFIC: u64 = 64 << 20;

/// Makes a closure index with hints for the cache at a URL.
type Index = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A server, and what comes of it.
pub(crate) struct Case {
    name: String,
    goods: Arc<Goods>,
    script: Script,
    speaks: Speaks,
    /// Further arguments of the agent.
    arguments: Vec<String>,
    /// Makes a closure index with hints for the cache at this URL.
    index: Option<Index>,
    /// How the run ends when nobody else has the closure.
    code: i32,
    /// What it says then, beside the cache's name.
    says: Vec<String>,
    /// Whether another cache can make it good.
    helped: bool,
    /// Whether the cache did something for which it is named.
    blamed: bool,
    /// The largest file that a run may write, in bytes.
    file: u64,
}

/// What a server speaks at its port.
enum Speaks {
    Http,
    Tls(Identity),
    /// Its URL says https, and it speaks HTTP.
    HttpForTls,
}

impl Case {
    /// Makes a case about the usual closure.
    pub(crate) fn new(
        name: impl Into<String>,
        code: i32,
        says: &[&str],
        script: impl Fn(&Ask<'_>, &Goods) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            goods: usual(),
            script: Arc::new(script),
            speaks: Speaks::Http,
            arguments: Vec::new(),
            index: None,
            code,
            says: says.iter().map(|&words| words.to_owned()).collect(),
            helped: true,
            blamed: true,
            file: FILE,
        }
    }

    /// Answers each request for the archive of `name`.
    pub(crate) fn nar(
        name: impl Into<String>,
        code: i32,
        says: &[&str],
        answer: impl Fn(&Ask<'_>, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, code, says, move |ask, goods| {
            (ask.path() == goods.narinfo("big").url).then(|| answer(ask, goods.nar("big")))
        })
    }

    /// Answers each request for the narinfo of `big`.
    pub(crate) fn narinfo(
        name: impl Into<String>,
        code: i32,
        says: &[&str],
        answer: impl Fn(&Ask<'_>, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, code, says, move |ask, goods| {
            let text = goods.narinfo("big").to_string();
            (ask.path() == goods.narinfo_file("big")).then(|| answer(ask, &text))
        })
    }

    /// Sells other goods.
    pub(crate) fn of(mut self, goods: Arc<Goods>) -> Self {
        self.goods = goods;
        self
    }

    /// Adds arguments of the agent.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Speaks TLS as `identity`.
    pub(crate) fn over_tls(mut self, identity: Identity) -> Self {
        self.speaks = Speaks::Tls(identity);
        self
    }

    /// Says in its URL that it speaks TLS, and does not.
    pub(crate) fn plain_as_tls(mut self) -> Self {
        self.speaks = Speaks::HttpForTls;
        self
    }

    /// Goes by a closure index with these hints.
    pub(crate) fn indexed(
        mut self,
        hints: impl Fn(&Goods, &str) -> Hints + Send + Sync + 'static,
    ) -> Self {
        let goods = Arc::clone(&self.goods);
        self.index = Some(Box::new(move |url| {
            let infos = goods.narinfos().map(|narinfo| &narinfo.info);
            let index = ClosureIndex::from_paths(goods.root(), infos).unwrap();
            let mut bytes = index.to_bytes();
            bytes.push(b'\n');
            bytes.extend(hints(&goods, url).to_bytes(index.digest()));
            bytes
        }));
        self
    }

    /// Allows files of this size.
    pub(crate) const fn writes(mut self, file: u64) -> Self {
        self.file = file;
        self
    }

    /// Says that the cache did nothing for which it would be named.
    pub(crate) const fn unnamed(mut self) -> Self {
        self.blamed = false;
        self
    }

    /// Says that no other cache can help: what lies is signed, or it is the same for all.
    pub(crate) fn beyond_help(mut self) -> Self {
        self.helped = false;
        self
    }

    fn serve(&self) -> FaultServer {
        let script = Arc::clone(&self.script);
        match &self.speaks {
            Speaks::Http => FaultServer::new(&self.goods, script),
            Speaks::Tls(identity) => FaultServer::tls(&self.goods, script, identity.clone()),
            Speaks::HttpForTls => FaultServer::plain_as_tls(&self.goods, script),
        }
    }
}

/// The usual closure.
pub(crate) fn usual() -> Arc<Goods> {
    static GOODS: std::sync::OnceLock<Arc<Goods>> = std::sync::OnceLock::new();
    Arc::clone(GOODS.get_or_init(|| Arc::new(Goods::closure(Compression::Zstd))))
}

/// Runs all cases, several at once, and tells of those that did not end as they should.
#[track_caller]
pub(crate) fn check_all(cases: &[Case]) {
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Err(complaint) = check(case) {
                        complaints.lock().unwrap().push(format!("{}: {complaint}", case.name));
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    let (bad, all) = (complaints.len(), cases.len());
    assert!(complaints.is_empty(), "{bad} of {all} cases:\n{}", complaints.join("\n\n"));
}

/// Runs one case: the liar alone, then the honest one into the same store, then both at once.
fn check(case: &Case) -> Result<(), String> {
    let folder = scratch();
    let liar = case.serve();
    let root = folder.path().join("alone/root");
    let (ran, memory) = copy(case, &[&liar.url()], &root);
    let complain = |what: &str, ran: &Ran| Err(format!("{what}\n{ran}"));
    if ran.code != Some(case.code) {
        return complain(&format!("exit code {} is wanted", case.code), &ran);
    }
    if let Some(what) = silence(case, &liar, &ran) {
        return complain(&what, &ran);
    }
    if memory > MEMORY {
        return complain(&format!("took {} KiB of memory", memory / 1024), &ran);
    }
    if liar.sent() > TRAFFIC {
        return complain(&format!("took {} bytes from the server", liar.sent()), &ran);
    }
    if let Some(what) = damage(case, &root, case.code == 0) {
        return complain(&what, &ran);
    }
    if case.code != 0 {
        let honest = FaultServer::honest(&case.goods);
        let (ran, _) = copy(case, &[&honest.url()], &root);
        if ran.code != Some(0) {
            return complain("the next run with an honest cache failed", &ran);
        }
        if let Some(what) = damage(case, &root, true) {
            return complain(&format!("after the next run: {what}"), &ran);
        }
    }
    if case.code != 0 && case.helped {
        let root = folder.path().join("both/root");
        let (liar, honest) = (case.serve(), FaultServer::honest(&case.goods));
        let (ran, _) = copy(case, &[&liar.url(), &honest.url()], &root);
        if ran.code != Some(0) {
            return complain("an honest cache behind it did not help", &ran);
        }
        if case.blamed && !ran.stderr.contains(&liar.url()) {
            return complain("the liar is not named", &ran);
        }
        if let Some(what) = damage(case, &root, true) {
            return complain(&format!("with an honest cache behind it: {what}"), &ran);
        }
    }
    Ok(())
}

/// Substitutes the closure of a case from these caches.
fn copy(case: &Case, caches: &[&str], root: &Path) -> (Ran, u64) {
    let mut agent = shoal("agent");
    agent.arg("copy-closure").arg("--root").arg(root);
    for cache in caches {
        agent.args(["--from", cache]);
    }
    agent.args(["--trusted-public-key", &case.goods.key().public().to_string()]);
    if let (Some(index), Some(url)) = (&case.index, caches.first()) {
        let file = root.with_extension("index");
        fs::create_dir_all(root.parent().unwrap()).unwrap();
        fs::write(&file, index(url)).unwrap();
        agent.arg("--closure-index").arg(file);
    }
    agent.args(&case.arguments).arg(case.goods.root().to_string());
    run_bounded(&agent, Bounds { file: case.file, seconds: HANGS })
}

/// Returns what a failed run should have said and did not.
fn silence(case: &Case, liar: &FaultServer, ran: &Ran) -> Option<String> {
    if case.code == 0 {
        return None;
    }
    let mut words = vec!["error[".to_owned(), liar.url(), "next: ".to_owned()];
    words.extend(case.says.iter().cloned());
    words.into_iter().find(|word| !ran.stderr.contains(word)).map(|word| format!("no `{word}`"))
}

/// Returns what is wrong with a store: real Nix looks, and nothing may be there that is not valid.
fn damage(case: &Case, root: &Path, complete: bool) -> Option<String> {
    let nix = Nix::at(root);
    let verified = nix.nix_store(&["--verify", "--check-contents"]);
    if verified.code != Some(0) || verified.stderr.lines().any(|line| !line.ends_with("...")) {
        return Some(format!("Nix is not content: {verified}"));
    }
    let wanted: BTreeMap<_, _> =
        case.goods.narinfos().map(|it| (it.info.path.to_string(), it.info.nar_hash)).collect();
    let valid = valid(root);
    if let Some(path) = valid.keys().find(|path| !wanted.contains_key(*path)) {
        return Some(format!("{path} is valid"));
    }
    let same = |path: &String| valid[path] == format!("sha256:{}", wanted[path].to_hex());
    if complete && !valid.keys().all(same) {
        return Some("a path is valid with another hash".to_owned());
    }
    let has_root = valid.contains_key(&case.goods.root().to_string());
    if has_root != complete {
        return Some(format!("the root is {}valid", if has_root { "" } else { "not " }));
    }
    let names = fs::read_dir(root.join("nix/store")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let known =
        |name: &String| name == ".links" || valid.contains_key(&format!("/nix/store/{name}"));
    if let Some(name) = names.into_iter().find(|name| !known(name)) {
        return Some(format!("{name} was left behind"));
    }
    let beside = fs::read_dir(root.parent().unwrap()).unwrap();
    let beside = beside.map(|entry| entry.unwrap().file_name()).filter(|name| name != "root.index");
    (beside.count() != 1).then(|| "something was written beside the store".to_owned())
}

/// Returns the valid paths and their hashes, as the database has them.
fn valid(root: &Path) -> BTreeMap<String, String> {
    let file: PathBuf = root.join("nix/var/nix/db/db.sqlite");
    let database = rusqlite::Connection::open(file).unwrap();
    let mut rows = database.prepare("SELECT path, hash FROM ValidPaths").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}
