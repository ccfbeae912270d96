//! Substitution from several caches, of which some fail, lie, or stop in the middle.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use shared::{
    closure::ClosureIndex,
    hints::Hints,
    nix::{PublicKey, StorePath, TrustedKeys},
};
use store::{
    cache::{BinaryCache, CacheError, Location, Network, NetworkOptions},
    local::LocalStore,
    substitute::{
        Cause, Discovered, Event, FaultCause, Limits, Observer, Outcome, Sources, SubstituteError,
        discover, run,
    },
};
use tempfile::TempDir;
use tests::{Nix, Request, Response, Server, fixture, scratch};

const ROOT: &str = "/nix/store/sl2xkj3173msizl69v2fhrj3jm7401hl-nixos-system-testhost-2";
/// What the tests' folder of caches has of it.
const PATHS: usize = 25;

/// A closure that is wanted, a store that is empty, and what is heard on the way.
struct Story {
    folder: TempDir,
    store: Arc<LocalStore>,
    trusted: TrustedKeys,
    index: ClosureIndex,
    hints: Hints,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Story {
    async fn new() -> Self {
        let folder = scratch();
        let store = Arc::new(LocalStore::open(&folder.path().join("root")).unwrap());
        let key = std::fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
        let trusted = TrustedKeys::from_iter([PublicKey::parse(&key).unwrap()]);
        let cache = fixture("nix/cache-zstd");
        let caches = vec![open(cache.to_str().unwrap()).await];
        let sources = Sources { caches, trusted: trusted.clone(), hints: Vec::new() };
        let root = StorePath::parse(ROOT).unwrap();
        let silent: Observer = Arc::new(|_| {});
        let found = discover(&[root], None, &sources, &silent).await.unwrap();
        let Discovered { mut closures, hints } = found;
        let index = closures.remove(0);
        assert_eq!(index.len(), PATHS);
        Self { folder, store, trusted, index, hints, heard: Arc::default() }
    }

    fn sources(&self, caches: Vec<BinaryCache>) -> Sources {
        Sources { caches, trusted: self.trusted.clone(), hints: Vec::new() }
    }

    async fn run(&self, sources: &Sources) -> Result<Outcome, SubstituteError> {
        self.run_limited(sources, &Limits::default()).await
    }

    async fn run_limited(
        &self,
        sources: &Sources,
        limits: &Limits,
    ) -> Result<Outcome, SubstituteError> {
        let heard = Arc::clone(&self.heard);
        let observer: Observer = Arc::new(move |event| {
            if let Event::Finished { path, cache } = event {
                heard.lock().unwrap().push(format!("{path} {cache}"));
            }
        });
        let closures = std::slice::from_ref(&self.index);
        run(&self.store, closures, sources, limits, &observer).await
    }

    fn valid(&self) -> usize {
        let all: BTreeSet<_> = self.index.entries().map(|entry| entry.path().clone()).collect();
        self.store.valid(&all).unwrap().len()
    }

    fn root(&self) -> &Path {
        self.store.root()
    }

    /// Real Nix finds nothing wrong, and there is nothing that is not valid.
    #[track_caller]
    fn verify(&self) {
        let nix = Nix::at(self.root());
        nix.verify();
        let names = std::fs::read_dir(nix.real("/nix/store")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        let names = names.iter().filter(|name| *name != ".links").count();
        assert_eq!(names, self.valid(), "something that is not valid was left behind");
    }
}

fn network() -> Network {
    let backoff = Duration::from_millis(1);
    Network::new(&NetworkOptions { attempts: 2, backoff, ..NetworkOptions::default() }).unwrap()
}

async fn open(url: &str) -> BinaryCache {
    BinaryCache::open(&Location::parse(url).unwrap(), &network()).await.unwrap()
}

fn server() -> Server {
    Server::new(&fixture("nix/cache-zstd"))
}

/// Answers with the file, but each NAR with one byte changed.
fn lie(request: &Request) -> Option<Response> {
    let is_nar = request.path().starts_with("/nar/");
    is_nar.then(|| {
        Response::file(&fixture("nix/cache-zstd"), request).map_body(|body| {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        })
    })
}

#[tokio::test]
async fn a_cache_that_lies_is_named_and_the_next_one_delivers() {
    let story = Story::new().await;
    let (liar, honest) = (server(), server());
    liar.hook(lie);
    let caches = vec![open(&liar.url()).await, open(&honest.url()).await];
    let limits = Limits { connections: 1, ..Limits::default() };
    let outcome = story.run_limited(&story.sources(caches), &limits).await.unwrap();
    assert_eq!((outcome.paths, story.valid()), (PATHS, PATHS));
    // One lie is enough: the others were not downloaded twice.
    assert_eq!(outcome.faults.len(), 1, "{:?}", outcome.faults);
    assert!(outcome.faults.iter().all(|fault| fault.cache == liar.url()));
    assert!(outcome.faults.iter().all(|fault| matches!(fault.cause, FaultCause::Refused(_))));
    story.verify();
}

#[tokio::test]
async fn a_cache_without_some_paths_is_complemented_and_blamed_for_nothing() {
    let story = Story::new().await;
    let (some, all) = (server(), server());
    let has = |path: &str| path.as_bytes()[1] < b'h';
    some.hook(move |request| {
        let hidden = request.path().ends_with(".narinfo") && !has(request.path());
        hidden.then(|| Response::new(404, ""))
    });
    let caches = vec![open(&some.url()).await, open(&all.url()).await];
    let outcome = story.run(&story.sources(caches)).await.unwrap();
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let heard = story.heard.lock().unwrap();
    let from_all = heard.iter().filter(|line| line.ends_with(&all.url())).count();
    assert!(from_all > 0 && from_all < PATHS, "{heard:?}");
    story.verify();
}

#[tokio::test]
async fn a_cache_that_goes_away_is_soon_left_alone() {
    let story = Story::new().await;
    let (gone, here) = (server(), server());
    let caches = vec![open(&gone.url()).await, open(&here.url()).await];
    let name = gone.url();
    drop(gone);
    let limits = Limits { connections: 1, ..Limits::default() };
    let outcome = story.run_limited(&story.sources(caches), &limits).await.unwrap();
    assert_eq!(story.valid(), PATHS);
    // Once, and on a machine that stood still meanwhile once or twice more.
    assert!((1..4).contains(&outcome.faults.len()), "{:?}", outcome.faults);
    assert!(outcome.faults.iter().all(|fault| fault.cache == name));
}

#[tokio::test]
async fn a_nar_that_keeps_breaking_off_comes_from_the_next_cache() {
    let story = Story::new().await;
    let (broken, whole) = (server(), server());
    broken.hook(|request| {
        let is_nar = request.path().starts_with("/nar/");
        is_nar.then(|| Response::file(&fixture("nix/cache-zstd"), request).cut_after(20))
    });
    let caches = vec![open(&broken.url()).await, open(&whole.url()).await];
    let outcome = story.run(&story.sources(caches)).await.unwrap();
    assert_eq!(story.valid(), PATHS);
    let broke_off = |cause: &FaultCause| matches!(cause, FaultCause::Interrupted(_));
    assert!(outcome.faults.iter().any(|fault| broke_off(&fault.cause)));
    story.verify();
}

#[tokio::test]
async fn when_no_cache_delivers_a_path_all_of_them_are_named_and_what_is_whole_stays() {
    let story = Story::new().await;
    let (first, second) = (server(), server());
    let narinfo = "/8a5dkmn6y99jrqzk5qqfsgpnrq081qka.narinfo";
    first.answer(narinfo, Response::new(404, ""));
    second.answer(narinfo, Response::new(200, "nonsense"));
    let caches = vec![open(&first.url()).await, open(&second.url()).await];
    let limits = Limits { connections: 1, ..Limits::default() };
    let error = story.run_limited(&story.sources(caches), &limits).await.unwrap_err();
    let SubstituteError::Path { path, faults } = &error else { panic!("{error:?}") };
    assert!(path.base_name().ends_with("base-1.0"));
    let named: Vec<_> = faults.iter().map(|fault| fault.cache.clone()).collect();
    assert_eq!(named, [first.url(), second.url()]);
    assert_eq!(error.cause(), Cause::RefusedBytes);
    let problem = error.problem();
    assert_eq!(problem.causes.len(), 2, "{problem:?}");

    // The root needs that path, so it cannot be valid; what had arrived before is.
    let kept = story.valid();
    assert!(kept > 0 && kept < PATHS, "{kept}");
    story.verify();
    let third = server();
    let outcome = story.run(&story.sources(vec![open(&third.url()).await])).await.unwrap();
    assert_eq!(outcome.paths, PATHS - kept);
    story.verify();
}

#[tokio::test]
async fn without_any_cache_the_error_says_so() {
    let story = Story::new().await;
    let error = story.run(&story.sources(Vec::new())).await.unwrap_err();
    assert_eq!(error.cause(), Cause::FetchFailed);
    assert_eq!(error.problem().causes, ["there is no cache to ask"]);
    assert_eq!(story.valid(), 0);
}

#[tokio::test]
async fn hints_that_lie_cost_a_request_and_nothing_else() {
    let story = Story::new().await;
    let server = server();
    let mut hints = Hints::default();
    let cache = hints.add_cache(&server.url());
    for (number, entry) in story.index.entries().enumerate() {
        let mut told = story.hints.get(entry.path()).unwrap().clone();
        for nar in &mut told.nars {
            nar.cache = cache;
            match number % 4 {
                0 => nar.url = "nar/nowhere.nar".to_owned(),
                1 => nar.compression = shared::nix::narinfo::Compression::None,
                2 => nar.cache = cache + 1,
                _ => {}
            }
        }
        if number % 4 == 3 {
            told.signatures.clear();
        }
        *hints.entry(entry.path()) = told;
    }
    let caches = vec![open(&server.url()).await];
    let sources = Sources { hints: vec![hints], ..story.sources(caches) };
    let outcome = story.run(&sources).await.unwrap();
    assert_eq!((outcome.paths, outcome.faults.len()), (PATHS, 0));
    story.verify();
}

#[tokio::test]
async fn a_disk_without_space_is_seen_before_anything_is_fetched() {
    let story = Story::new().await;
    let server = server();
    let sources = story.sources(vec![open(&server.url()).await]);
    drop(server.take_requests());
    let limits = Limits { min_free: u64::MAX / 2, ..Limits::default() };
    let error = story.run_limited(&sources, &limits).await.unwrap_err();
    assert!(matches!(error, SubstituteError::NoSpace { .. }), "{error:?}");
    assert_eq!(error.cause(), Cause::DiskFull);
    assert!(server.take_requests().is_empty());
    story.verify();
}

#[tokio::test]
async fn two_runs_at_once_share_the_work_and_both_end_well() {
    let story = Story::new().await;
    let server = server();
    let sources = story.sources(vec![open(&server.url()).await]);
    let (first, second) = tokio::join!(story.run(&sources), story.run(&sources));
    assert_eq!(first.unwrap().paths + second.unwrap().paths, PATHS);
    story.verify();
}

#[tokio::test]
async fn a_run_that_is_given_up_in_the_middle_leaves_nothing_valid_and_no_lock() {
    let story = Story::new().await;
    let stuck = server();
    let (asked, was_asked) = mpsc::channel();
    stuck.hook(move |request| {
        if !request.path().starts_with("/nar/") {
            return None;
        }
        // Whoever waits for this answer waits in vain.
        asked.send(()).unwrap();
        Some(Response::file(&fixture("nix/cache-zstd"), request).cut_after(1))
    });
    let sources = story.sources(vec![open(&stuck.url()).await]);
    let asked = tokio::task::spawn_blocking(move || was_asked.recv());
    tokio::select! {
        biased;
        asked = asked => asked.unwrap().unwrap(),
        result = story.run(&sources) => drop(result),
    }
    assert_eq!(story.valid(), 0);
    let good = server();
    story.run(&story.sources(vec![open(&good.url()).await])).await.unwrap();
    story.verify();
    assert!(story.folder.path().exists());
}

#[tokio::test]
async fn the_future_of_a_run_may_move_between_threads() {
    fn is_send<T: Send>(future: T) -> T {
        future
    }
    let story = Story::new().await;
    let sources = story.sources(Vec::new());
    let closures = [story.index.clone()];
    let (limits, silent): (Limits, Observer) = (Limits::default(), Arc::new(|_| {}));
    assert!(is_send(run(&story.store, &closures, &sources, &limits, &silent)).await.is_err());
}

/// Serves the folder, but lets each NAR drip, a byte at a time: fifty a second.
fn dripping_server() -> String {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let converse = |stream: std::net::TcpStream| -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let mut stream = &stream;
        let body = std::fs::read(fixture("nix/cache-zstd").join(&path))?;
        let length = body.len();
        write!(stream, "HTTP/1.1 200 .\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")?;
        if !path.starts_with("nar/") {
            return stream.write_all(&body);
        }
        for byte in body {
            stream.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(converse(stream)));
        }
    });
    url
}

#[tokio::test]
async fn a_cache_that_drips_is_left_for_another_one() {
    let story = Story::new().await;
    let (dripping, honest) = (dripping_server(), server());
    let hasty_rate_window = Duration::from_millis(300);
    let options = NetworkOptions { hasty_rate_window, ..NetworkOptions::default() };
    let network = Network::new(&options).unwrap();
    let places =
        [dripping.as_str(), &honest.url()].map(|url| (Location::parse(url).unwrap(), None));
    let (caches, errors) = BinaryCache::open_all(&places, &[], &network).await;
    assert!(errors.is_empty(), "{errors:?}");
    let outcome = story.run(&story.sources(caches)).await.unwrap();
    assert_eq!((outcome.paths, story.valid()), (PATHS, PATHS));
    assert!(outcome.faults.iter().all(|fault| fault.cache == dripping), "{:?}", outcome.faults);
    let said = outcome.faults[0].line();
    assert!(said.contains("at least 1024 bytes a second"), "{said}");
    story.verify();
}

#[tokio::test]
async fn a_cache_that_asks_for_a_long_pause_gets_it_while_another_one_works() {
    let story = Story::new().await;
    let (busy, free) = (server(), server());
    let network = Network::new(&NetworkOptions::default()).unwrap();
    let places = [busy.url(), free.url()].map(|url| (Location::parse(&url).unwrap(), None));
    let (caches, _) = BinaryCache::open_all(&places, &[], &network).await;
    drop(busy.take_requests());
    busy.hook(|_| Some(Response::new(429, "").header("Retry-After", "300")));
    let limits = Limits { connections: 1, ..Limits::default() };
    let outcome = story.run_limited(&story.sources(caches), &limits).await.unwrap();
    assert_eq!((outcome.paths, outcome.faults.len()), (PATHS, 1));
    assert_eq!(busy.take_requests().len(), 1);
    story.verify();
}

#[tokio::test]
async fn what_a_cache_did_is_remembered_in_the_next_round() {
    let (liar, gone, honest) = (server(), server(), server());
    liar.hook(lie);
    let places = [liar.url(), gone.url(), honest.url()];
    drop(gone);
    let places = places.map(|url| (Location::parse(&url).unwrap(), None));
    let backoff = Duration::from_millis(1);
    let network = Network::new(&NetworkOptions { backoff, ..NetworkOptions::default() }).unwrap();
    let first = Story::new().await;
    let (caches, errors) = BinaryCache::open_all(&places, &[], &network).await;
    assert_eq!((caches.len(), errors.len()), (2, 1), "{errors:?}");
    assert!(!first.run(&first.sources(caches)).await.unwrap().faults.is_empty());
    assert!(!liar.take_requests().is_empty());

    let second = Story::new().await;
    let (caches, errors) = BinaryCache::open_all(&places, &[], &network).await;
    assert!(errors.is_empty(), "nobody waits for what is known: {errors:?}");
    assert_eq!(caches.len(), 3, "but it could still be asked");
    let outcome = second.run(&second.sources(caches)).await.unwrap();
    assert_eq!((outcome.paths, outcome.faults.len()), (PATHS, 0), "{:?}", outcome.faults);
    assert!(liar.take_requests().is_empty());

    // If nobody else has it, even a liar is asked: what it says is checked.
    liar.hook(|_| None);
    drop(honest);
    let third = Story::new().await;
    let (caches, _) = BinaryCache::open_all(&places, &[], &network).await;
    assert_eq!(third.run(&third.sources(caches)).await.unwrap().paths, PATHS);
    third.verify();
}

#[tokio::test]
async fn a_cache_that_never_answers_holds_up_nobody() {
    let story = Story::new().await;
    // Connections come about, because the kernel makes them, and nothing more happens.
    let hole = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", hole.local_addr().unwrap());
    let honest = server();
    let places = [url, honest.url()].map(|url| (Location::parse(&url).unwrap(), None));
    let network = Network::new(&NetworkOptions::default()).unwrap();
    let (caches, errors) = BinaryCache::open_all(&places, &[], &network).await;
    let names: Vec<_> = caches.iter().map(BinaryCache::name).collect();
    assert_eq!(names[0], honest.url());
    assert_eq!(names.len(), 2, "it may still be asked for what nobody else has");
    assert!(matches!(errors[..], [CacheError::Late { .. }]), "{errors:?}");
    let outcome = story.run(&story.sources(caches)).await.unwrap();
    assert_eq!((outcome.paths, outcome.faults.len()), (PATHS, 0));
}
