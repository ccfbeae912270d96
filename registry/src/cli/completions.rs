//! `registry completions`: a script that completes commands in a shell, and the names that it asks
//! for.

use std::time::Duration;

use clap::{Arg, CommandFactory as _};
use shared::{
    api::{GroupSummary, HostSummary, Page, Team},
    problem::Problem,
};

use super::{Cli, Context};
use crate::client::Client;

/// How long somebody who has pressed a key waits for names.
const PATIENCE: Duration = Duration::from_millis(800);
/// Names that are offered; whoever sees as many types another letter.
const MOST: usize = 100;

/// Print a script that completes this program's commands in a shell
///
/// In bash, names of groups, hosts, teams and manifests are completed as the registry knows them:
/// source <(registry completions bash)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Print the names that may stand where somebody types
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Names {
    /// What is typed so far, behind the program's name; the last word is not complete
    #[arg(last = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Completes names beside what clap's own script completes, which shows `[GROUP]` for a group.
const BASH: &str = r#"
_registry_and_names() {
    local word="${COMP_WORDS[COMP_CWORD]}" known=() offered name
    _registry "$@"
    for offered in "${COMPREPLY[@]}"; do
        [[ $offered == [\[\<]* ]] || known+=("$offered")
    done
    if [[ $word != -* ]]; then
        [[ $word == = ]] && word=
        while IFS= read -r name; do
            [[ $name == "$word"* && -n $name ]] && known+=("$name")
        done < <("${COMP_WORDS[0]}" complete-names -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    fi
    COMPREPLY=("${known[@]}")
}
complete -F _registry_and_names -o bashdefault registry
"#;

/// Prints the script.
pub(crate) fn run(args: &Args, context: &Context<'_>) -> Result<(), Problem> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "registry", &mut script);
    if args.shell == clap_complete::Shell::Bash {
        script.extend_from_slice(BASH.as_bytes());
    }
    context.output.bytes(&script)
}

/// Prints the names; none where the registry does not answer at once: nobody asked for an error.
pub(crate) async fn names(args: &Names, context: &Context<'_>) -> Result<(), Problem> {
    let mut command = Cli::command();
    command.build();
    let Some((kind, begin)) = wanted(&command, &args.words) else { return Ok(()) };
    let mut settings = context.settings.clone();
    if let Some(url) = option(&args.words, "--registry") {
        settings.registry.value = url.trim_end_matches('/').to_owned();
    }
    if let Some(realm) = option(&args.words, "--realm") {
        settings.realm.value = realm.to_owned();
    }
    let client = Client::of(&settings)?;
    let found = tokio::time::timeout(PATIENCE, ask(&client, kind, begin)).await;
    let Ok(Ok(mut found)) = found else { return Ok(()) };
    // They go through a shell.
    found.retain(|it| it.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b)));
    let text: String = found.iter().map(|name| format!("{name}\n")).collect();
    context.output.bytes(text.as_bytes())
}

/// What may stand where somebody types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Group,
    Host,
    Team,
    Manifest,
}

impl Kind {
    /// Reads it from what the help calls an argument.
    fn of(argument: &Arg) -> Option<Self> {
        match argument.get_value_names()?.first()?.as_str() {
            "GROUP" => Some(Self::Group),
            "HOST" => Some(Self::Host),
            "TEAM" => Some(Self::Team),
            "TARGET" => Some(Self::Manifest),
            _ => None,
        }
    }
}

/// Finds out what may stand where the last word is, and how it begins.
fn wanted<'a>(root: &clap::Command, words: &'a [String]) -> Option<(Kind, &'a str)> {
    let (last, before) = words.split_last()?;
    let (mut command, mut place, mut option) = (root, 0, None);
    let mut only_values = false;
    // A shell may take `--host=web` apart.
    for word in before.iter().filter(|word| *word != "=") {
        if option.take().is_some() {
            continue;
        }
        if only_values || !word.starts_with('-') {
            match command.find_subcommand(word).filter(|_| place == 0 && !only_values) {
                Some(found) => command = found,
                None => place += 1,
            }
            continue;
        }
        only_values = word == "--";
        let long = word.strip_prefix("--");
        option = command
            .get_arguments()
            .find(|it| it.get_long() == long && long.is_some())
            .filter(|it| it.get_action().takes_values());
    }
    let last = if last == "=" { "" } else { last.as_str() };
    let argument = match option {
        Some(option) => option,
        None if last.starts_with('-') && !only_values => return None,
        None => command.get_positionals().nth(place)?,
    };
    Kind::of(argument).map(|kind| (kind, last))
}

/// Returns the value of an option that is typed already.
fn option<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let mut words = words.iter().filter(|word| *word != "=");
    loop {
        let word = words.next()?;
        if word == name {
            return words.next().map(String::as_str);
        }
        if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value);
        }
    }
}

/// Asks the registry for names that begin so.
async fn ask(client: &Client, kind: Kind, begin: &str) -> Result<Vec<String>, Problem> {
    // A manifest may stand for its group where both do.
    let (group, is_manifest) = match begin.split_once('/') {
        Some((group, _)) => (group, true),
        None => (begin, kind == Kind::Manifest),
    };
    let query = |begin: &str| [("q", begin.to_owned()), ("limit", MOST.to_string())];
    Ok(match kind {
        Kind::Host => {
            let page: Page<HostSummary> = client.get("hosts", &query(begin)).await?;
            page.items.into_iter().map(|it| it.name.to_string()).collect()
        }
        Kind::Team => {
            let page: Page<Team> = client.get("teams", &query(begin)).await?;
            let teams = page.items.into_iter().map(|it| it.fence.role);
            teams.filter(|role| !role.contains('.')).collect()
        }
        Kind::Group | Kind::Manifest => {
            let page: Page<GroupSummary> = client.get("groups", &query(group)).await?;
            let names = |it: &GroupSummary| {
                let group = &it.counts.group;
                if !is_manifest {
                    return vec![group.to_string()];
                }
                it.profiles.iter().map(|profile| format!("{group}/{profile}")).collect()
            };
            page.items.iter().flat_map(names).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stand_somewhere_is_read_from_the_command_line_itself() {
        let mut command = Cli::command();
        command.build();
        let check = |typed: &str, expected: Option<(Kind, &str)>| {
            let words: Vec<String> = typed.split(' ').map(str::to_owned).collect();
            assert_eq!(wanted(&command, &words), expected, "{typed}");
        };
        check("hosts ", Some((Kind::Group, "")));
        check("hosts e", Some((Kind::Group, "e")));
        check("hosts --state failed e", Some((Kind::Group, "e")));
        check("--json hosts --watch e", Some((Kind::Group, "e")));
        check("hosts --state f", None);
        check("hosts --", None);
        check("hosts eu ", None);
        check("host we", Some((Kind::Host, "we")));
        check("host --why we", Some((Kind::Host, "we")));
        check("host -- we", Some((Kind::Host, "we")));
        check("host revoke we", Some((Kind::Host, "we")));
        check("host enroll-token --group e", Some((Kind::Group, "e")));
        check("diff eu 1 2 --host = we", Some((Kind::Host, "we")));
        check("diff --host =", Some((Kind::Host, "")));
        check("diff eu/w", Some((Kind::Group, "eu/w")));
        check("history eu", Some((Kind::Manifest, "eu")));
        check("--registry http://a team show s", Some((Kind::Team, "s")));
        check("h", None);
        check("no such thing", None);
    }

    #[test]
    fn options_that_are_typed_already_count() {
        let words = ["--realm=a", "hosts", "--registry", "=", "http://b/"].map(str::to_owned);
        assert_eq!(option(&words, "--registry"), Some("http://b/"));
        assert_eq!(option(&words, "--realm"), Some("a"));
        assert_eq!(option(&words, "--config"), None);
    }
}
