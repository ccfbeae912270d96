//! A realm as this signer trusts it: read from a source, verified from the pinned root.
//!
//! The same code as in the agent decides. What was verified before is remembered in the user's
//! state folder, so that a registry cannot take this signer back to older documents.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use shared::{
    id::{RealmName, TargetPath},
    nix::Sha256,
    problem::{Kind, Problem},
    trust::{
        self, Clock, ExpiryRule, Folder, Need, Refresh, Rules, Stored, StoredTarget, Trusted,
        Verdict, Verified, writer::Targets,
    },
};

use crate::{
    client::Source,
    config::Settings,
    files::{self, Existing, Readers},
    signer,
};

/// A verified realm, and where its files come from.
#[derive(Debug)]
pub(crate) struct TrustedRealm {
    name: RealmName,
    source: Source,
    memory: Memory,
    trusted: Trusted,
}

impl TrustedRealm {
    /// Reads and verifies the realm's four top-level roles, and remembers them.
    ///
    /// # Errors
    /// When the root is not pinned here, the source cannot be reached, or it cannot be believed.
    pub(crate) async fn open(settings: &Settings, source: Source) -> Result<Self, Problem> {
        Self::refresh(settings, source, Memory::of(settings), ExpiryRule::AllRoles).await
    }

    /// Reads and verifies for someone who signs `targets` anew, also after it has expired.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn open_to_sign(settings: &Settings, source: Source) -> Result<Self, Problem> {
        Self::refresh(settings, source, Memory::of(settings), ExpiryRule::OnlineRoles).await
    }

    /// Reads and verifies as someone would who has seen nothing before, so that every file is
    /// read anew.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn open_afresh(settings: &Settings, source: Source) -> Result<Self, Problem> {
        Self::refresh(settings, source, Memory { folder: None }, ExpiryRule::AllRoles).await
    }

    async fn refresh(
        settings: &Settings,
        source: Source,
        memory: Memory,
        expiry: ExpiryRule,
    ) -> Result<Self, Problem> {
        let name = realm_name(settings)?;
        let pinned = pinned_root(settings)?;
        let stored = memory.load("top", Stored::parse)?;
        let clock = Clock::synchronised(Timestamp::now());
        let told = |error: trust::Error| refused(&error);
        let mut refresh =
            Refresh::new(rules(&name, expiry), &pinned, stored, clock).map_err(told)?;
        while let Some(need) = refresh.need() {
            let bytes = fetch(&source, &need).await?;
            refresh.feed(&need.name, bytes).map_err(told)?;
        }
        let trusted = refresh.finish().map_err(told)?;
        memory.save("top", &trusted.stored().to_bytes())?;
        Ok(Self { name, source, memory, trusted })
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &RealmName {
        &self.name
    }

    /// Returns what was verified.
    pub(crate) fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// Returns the current version of a role that `targets` delegates to, verified but for its
    /// expiry; nothing when it was never published.
    ///
    /// # Errors
    /// When the source cannot be reached, or it cannot be believed.
    pub(crate) async fn role(&self, role: &str) -> Result<Option<Targets>, Problem> {
        let Some(need) = self.trusted.role_need(role) else { return Ok(None) };
        let Some(bytes) = fetch(&self.source, &need).await? else {
            let what = format!("this source is behind: it has no `{}`", need.name);
            return Err(Problem::new(Kind::Conflict, "source_behind", what)
                .leaves("nothing changed")
                .fix("read from the registry itself, not from a mirror"));
        };
        let (targets, _) = self.trusted.read_role(role, &bytes).map_err(|error| refused(&error))?;
        Ok(Some(targets))
    }

    /// Reads a file that a verified role or manifest names by its SHA-256.
    ///
    /// # Errors
    /// When the source cannot be reached, or has other bytes under this name.
    pub(crate) async fn file(
        &self,
        name: &str,
        digest: &Sha256,
        max: u64,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let got = self.source.get(name, max).await.map_err(|error| error.problem())?;
        match got {
            Some(bytes) if Sha256::of(&bytes) != *digest => {
                let what = format!("`{name}` is not what its name says");
                Err(Problem::new(Kind::Trust, "hash_mismatch", what)
                    .because(format!("its SHA-256 is {}", Sha256::of(&bytes).to_hex()))
                    .leaves("nothing changed")
                    .fix("ask the operator of the registry; the file was changed on its disk"))
            }
            other => Ok(other.map(Vec::from)),
        }
    }

    /// Finds and verifies a target, and remembers it; nothing when nobody lists it.
    ///
    /// # Errors
    /// When the source cannot be reached, or it cannot be believed.
    pub(crate) async fn target(
        &self,
        path: &TargetPath,
    ) -> Result<Option<Verified<Vec<u8>>>, Problem> {
        match self.look_up(path).await? {
            Ok(target) => Ok(Some(target)),
            Err(error) if error.verdict() == Verdict::Absent => Ok(None),
            Err(error) => Err(refused(&error).because(format!("while reading `{path}`"))),
        }
    }

    /// Finds and verifies a target; tells why it is refused, apart from why it cannot be read.
    ///
    /// # Errors
    /// When the source cannot be reached, or the memory fails.
    pub(crate) async fn look_up(
        &self,
        path: &TargetPath,
    ) -> Result<Result<Verified<Vec<u8>>, trust::Error>, Problem> {
        let file = path.to_string().replace('/', ".");
        let known = self.memory.load(&file, StoredTarget::parse)?;
        let mut lookup = match self.trusted.lookup(&path.to_string(), known) {
            Ok(lookup) => lookup,
            Err(error) => return Ok(Err(error)),
        };
        while let Some(need) = lookup.need() {
            let bytes = fetch(&self.source, &need).await?;
            if let Err(error) = lookup.feed(&need.name, bytes) {
                return Ok(Err(error));
            }
        }
        match lookup.finish() {
            Ok(found) => {
                self.memory.save(&file, &found.stored.to_bytes())?;
                Ok(Ok(found.target))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}

/// Returns the name of the realm in use.
///
/// # Errors
/// When it is no name.
pub(crate) fn realm_name(settings: &Settings) -> Result<RealmName, Problem> {
    RealmName::parse(&settings.realm.value).map_err(|error| {
        Problem::from_error(Kind::Usage, "realm", &error)
            .leaves("nothing changed")
            .fix("choose one with --realm REALM")
    })
}

/// Returns where this signer's root of trust lies.
pub(crate) fn root_file(settings: &Settings) -> PathBuf {
    signer::folder(settings).join("root.json")
}

/// Tells why the source is not believed.
pub(crate) fn refused(error: &trust::Error) -> Problem {
    let kind = match error.verdict() {
        Verdict::Untrusted | Verdict::Expired => Kind::Trust,
        Verdict::Behind => Kind::Conflict,
        Verdict::Absent => Kind::Negative,
    };
    let problem = Problem::from_error(kind, error.code(), error).leaves("nothing changed");
    match error.verdict() {
        Verdict::Untrusted => problem.fix("ask the operator of the registry; do not publish here"),
        Verdict::Expired => {
            let renewed = "the registry renews timestamp and snapshot while it runs; the other \
                roles are signed anew by their signers";
            problem.fix(renewed).next("registry trust renew")
        }
        Verdict::Behind => problem.fix("read from the registry itself, not from a mirror"),
        Verdict::Absent => problem,
    }
}

fn rules(realm: &RealmName, expiry: ExpiryRule) -> Rules {
    // A cap on age protects hosts; a signer who returns from a long leave must be able to renew.
    Rules { max_age: None, expiry, ..Rules::shoal(realm.as_str()) }
}

fn pinned_root(settings: &Settings) -> Result<Vec<u8>, Problem> {
    let path = root_file(settings);
    fs::read(&path).map_err(|error| {
        let realm = &settings.realm.value;
        let problem = Problem::new(
            Kind::Usage,
            "no_root",
            format!("there is no root of trust for realm `{realm}` in your folder"),
        )
        .because(format!("cannot read `{}`", path.display()))
        .because(error.to_string())
        .leaves("nothing changed");
        if error.kind() == io::ErrorKind::NotFound {
            return problem
                .fix("get 1.root.json from whoever set the realm up, and compare its fingerprint")
                .next("registry trust FILE --fingerprint SHA256");
        }
        problem
    })
}

async fn fetch(source: &Source, need: &Need) -> Result<Option<Vec<u8>>, Problem> {
    let folder = match need.folder {
        Folder::Metadata => "metadata",
        Folder::Targets => "targets",
    };
    let got = source.get(&format!("{folder}/{}", need.name), need.max_len).await;
    Ok(got.map_err(|error| error.problem())?.map(Vec::from))
}

/// What was verified before: the state folder of one realm, or nothing.
#[derive(Debug, Clone)]
struct Memory {
    folder: Option<PathBuf>,
}

impl Memory {
    fn of(settings: &Settings) -> Self {
        Self { folder: Some(settings.state.value.join(&settings.realm.value)) }
    }

    fn file(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.trust.json"))
    }

    fn load<T: Default>(
        &self,
        name: &str,
        parse: fn(&[u8]) -> Result<T, trust::StoredError>,
    ) -> Result<T, Problem> {
        let Some(folder) = &self.folder else { return Ok(T::default()) };
        let path = Self::file(folder, name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(error) => {
                return Err(Problem::from_error(Kind::Runtime, "state", &error)
                    .because(format!("while reading `{}`", path.display())));
            }
        };
        parse(&bytes).map_err(|error| {
            Problem::from_error(Kind::Runtime, "state", &error)
                .because(format!("while reading `{}`", path.display()))
                .leaves("nothing changed")
                .fix("remove that file; what was verified before is then forgotten")
        })
    }

    /// A failed write is a failed refresh: what is not remembered does not protect.
    fn save(&self, name: &str, bytes: &[u8]) -> Result<(), Problem> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = Self::file(folder, name);
        files::private_folder(folder)
            .and_then(|()| files::write(&path, bytes, Readers::Owner, Existing::Replace))
            .map_err(|error| {
                Problem::from_error(Kind::Runtime, "state", &error).leaves("nothing changed")
            })
    }
}

/// Returns the fingerprint of a root, as people compare it.
pub(crate) fn fingerprint(root: &[u8]) -> String {
    Sha256::of(root).to_hex()
}
