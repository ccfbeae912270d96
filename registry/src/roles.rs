//! Changing a role: its current version, verified; the next one, signed and sent.

use jiff::{SignedDuration, Timestamp};
use reqwest::multipart::{Form, Part as FormPart};
use shared::{
    api::{Part, PublishReceipt},
    id::TargetPath,
    problem::{Kind, Problem},
    trust::{
        PublicKey, SigningKey,
        fence::FenceError,
        writer::{self, Delegation, Document, Header, Targets, WriteError},
    },
};

use crate::{
    cli::{Ask, Context},
    client::{Client, Source},
    config::Settings,
    keys::KeyFolder,
    signer::{self, PassphraseArgs},
    trusted_realm::TrustedRealm,
};

/// How long a version of `targets` lasts, in days.
const TARGETS_DAYS: i64 = 60;
/// How long a version of a team's or of owners' role lasts, in days.
const DELEGATED_DAYS: i64 = 365;
/// How often a change is made anew because someone else was faster.
const ATTEMPTS: usize = 5;

/// A role that is about to change.
#[derive(Debug, Clone)]
pub(crate) struct Edit {
    /// What is signed now; none for a role that was never published.
    pub(crate) before: Option<Targets>,
    /// What is to be signed, one version higher.
    pub(crate) after: Targets,
}

/// What travels with a role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    /// Files that the role or a manifest in it references by digest.
    pub(crate) blobs: Vec<Vec<u8>>,
    /// Hints for closure indexes among them.
    pub(crate) hints: Vec<Vec<u8>>,
}

impl Edit {
    /// Returns the role's name.
    pub(crate) fn role(&self) -> &str {
        &self.after.role
    }

    /// Signs the new version with these keys.
    ///
    /// # Errors
    /// When a host would refuse it.
    pub(crate) fn sign(&self, keys: &[SigningKey]) -> Result<Document, Problem> {
        let mut document = self.after.document().map_err(|error| problem(&error))?;
        for key in keys {
            document.sign(key);
        }
        Ok(document)
    }

    /// Sends the signed version.
    ///
    /// # Errors
    /// What the registry answers, or why it does not; `moved` when someone else was faster.
    pub(crate) async fn send(
        &self,
        document: &Document,
        files: &Files,
        client: &Client,
    ) -> Result<PublishReceipt, Problem> {
        let mut form = Form::new().part(Part::Role.name(), FormPart::bytes(document.to_bytes()));
        for blob in &files.blobs {
            form = form.part(Part::Blob.name(), FormPart::bytes(blob.clone()));
        }
        for hints in &files.hints {
            form = form.part(Part::Hints.name(), FormPart::bytes(hints.clone()));
        }
        let over = self.before.as_ref().map(|before| before.header.version);
        client.put_role(self.role(), over, form).await
    }
}

/// Tells whether the registry refused because someone else published in between.
pub(crate) fn has_moved(problem: &Problem) -> bool {
    problem.kind == Kind::Conflict && problem.code == "moved"
}

/// Begins to change `targets`.
///
/// # Errors
/// When it cannot be written again.
pub(crate) fn edit_targets(realm: &TrustedRealm, now: Timestamp) -> Result<Edit, Problem> {
    let before = realm.trusted().targets().map_err(|error| problem(&error))?;
    let mut after = before.clone();
    advance(&mut after.header, now, TARGETS_DAYS)?;
    Ok(Edit { before: Some(before), after })
}

/// Begins to change a role that `targets` delegates to, or its first version.
///
/// # Errors
/// When its current version cannot be read or believed.
pub(crate) async fn edit_role(
    realm: &TrustedRealm,
    role: &str,
    now: Timestamp,
) -> Result<Edit, Problem> {
    let before = realm.role(role).await?;
    let header = Header { realm: realm.name().to_string(), version: 0, expires: now.into() };
    let mut after = before.clone().unwrap_or_else(|| Targets::empty(role, header));
    advance(&mut after.header, now, DELEGATED_DAYS)?;
    Ok(Edit { before, after })
}

/// Whose signature, and whether to ask before it is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consent<'a> {
    /// The name of the key in the signer's folder.
    pub(crate) key: &'a str,
    pub(crate) ask: Ask,
    pub(crate) passphrase: &'a PassphraseArgs,
}

/// Changes `targets` with the operator's key, as often as someone else is faster.
///
/// # Errors
/// When the change is refused here or by the registry.
pub(crate) async fn change_targets(
    context: &Context<'_>,
    client: &Client,
    consent: Consent<'_>,
    mut change: impl FnMut(&mut Targets) -> Result<(), Problem>,
) -> Result<PublishReceipt, Problem> {
    let (settings, output) = (&context.settings, context.output);
    let mut key = None;
    let mut attempt = 1;
    loop {
        let realm = TrustedRealm::open_to_sign(settings, Source::Http(client.clone())).await?;
        let mut edit = edit_targets(&realm, Timestamp::now())?;
        change(&mut edit.after)?;
        let key = match &key {
            Some(key) => key,
            None => {
                output.say(&format!("Role targets, version {}:", edit.after.header.version));
                for line in writer::changes(edit.before.as_ref(), &edit.after) {
                    output.say(&format!("  {line}"));
                }
                output.say(&format!("  until {}", edit.after.header.expires));
                consent.ask.confirm("Sign and publish?", output)?;
                key.insert(signer::open(consent.key, consent.passphrase, settings, output)?)
            }
        };
        let document = edit.sign(std::slice::from_ref(key))?;
        match edit.send(&document, &Files::default(), client).await {
            Ok(receipt) => return Ok(receipt),
            Err(moved) if has_moved(&moved) && attempt < ATTEMPTS => attempt += 1,
            Err(problem) => return Err(problem),
        }
    }
}

/// Returns the delegation of `targets` that a path belongs to.
pub(crate) fn delegation_of<'a>(targets: &'a Targets, path: &TargetPath) -> Option<&'a Delegation> {
    targets
        .delegations
        .iter()
        .find(|delegation| delegation.patterns.iter().any(|pattern| pattern.matches(path)))
}

/// Returns the names of this signer's keys that count for a delegation, at most its threshold.
///
/// # Errors
/// When there are too few, which names what is wanted.
pub(crate) fn own_keys(
    delegation: &Delegation,
    chosen: Option<&str>,
    folder: &KeyFolder,
) -> Result<Vec<String>, Problem> {
    let listed = folder.list().map_err(|error| signer::problem(&error))?;
    let mut names: Vec<String> = listed
        .into_iter()
        .filter(|key| delegation.ring.keys.contains(&key.public))
        .map(|key| key.name)
        .filter(|name| chosen.is_none_or(|chosen| chosen == name))
        .collect();
    let (found, wanted) = (names.len(), delegation.ring.threshold);
    names.truncate(wanted);
    if found >= wanted {
        return Ok(names);
    }
    let keys: Vec<String> = delegation.ring.keys.iter().map(PublicKey::to_hex).collect();
    let role = &delegation.role;
    let named = chosen.map_or_else(String::new, |name| format!(" named `{name}`"));
    Err(Problem::new(Kind::Trust, "no_key", format!("you cannot sign for role `{role}`"))
        .because(format!("it wants {wanted} of these keys: {}", keys.join(", ")))
        .because(format!("`{}` holds {found} of them{named}", folder.path().display()))
        .leaves("nothing changed")
        .next("registry key list"))
}

/// Tells in full why metadata cannot be written.
pub(crate) fn problem(error: &WriteError) -> Problem {
    let (kind, code) = match error {
        WriteError::Fence(FenceError::Overlap { .. }) => (Kind::Conflict, "overlap"),
        WriteError::Fence(_) => (Kind::Usage, "fence"),
        WriteError::Key(_) => (Kind::Usage, "key"),
        WriteError::Role { .. } => (Kind::Conflict, "role"),
        WriteError::Refused { .. }
        | WriteError::Unreadable { .. }
        | WriteError::Signature(_)
        | WriteError::Canonical(_) => (Kind::Trust, "metadata"),
    };
    let problem = Problem::from_error(kind, code, error).leaves("nothing changed");
    match code {
        "overlap" => problem
            .fix("give the new role patterns of its own; nobody shares a path")
            .next("registry team list"),
        _ => problem,
    }
}

fn advance(header: &mut Header, now: Timestamp, days: i64) -> Result<(), Problem> {
    header.version = header.version.checked_add(1).ok_or_else(|| {
        Problem::new(Kind::Conflict, "versions", "the role has no version left")
            .leaves("nothing changed")
    })?;
    let lifetime = SignedDuration::from_hours(days * 24);
    header.expires = now.saturating_add(lifetime).unwrap_or(Timestamp::MAX).into();
    Ok(())
}

/// Opens the realm that the registry of these settings publishes, to sign `targets` anew.
///
/// # Errors
/// When it cannot be reached or believed.
pub(crate) async fn open_to_sign(settings: &Settings) -> Result<(TrustedRealm, Client), Problem> {
    let client = Client::of(settings)?;
    let realm = TrustedRealm::open_to_sign(settings, Source::Http(client.clone())).await?;
    Ok((realm, client))
}

/// Opens the realm that the registry of these settings publishes.
///
/// # Errors
/// When it cannot be reached or believed.
pub(crate) async fn open(settings: &Settings) -> Result<(TrustedRealm, Client), Problem> {
    let client = Client::of(settings)?;
    let realm = TrustedRealm::open(settings, Source::Http(client.clone())).await?;
    Ok((realm, client))
}
