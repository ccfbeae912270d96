//! `--watch`: an answer that stays true, because the registry tells what changes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use shared::{
    api::{Publication, StreamEvent},
    human,
    problem::{Kind, Problem},
};
use tokio::time::MissedTickBehavior;

use super::{Context, shown};
use crate::{
    client::{
        Client,
        events::{self, News},
    },
    output::{Output, joined},
};

/// How often a terminal is painted anew: times stand on it.
const PAINT: Duration = Duration::from_secs(1);
/// How long an answer lasts at least before it is asked for again.
const LASTS: Duration = Duration::from_secs(2);
/// Changes that a terminal shows below the answer.
const RECENT: usize = 5;

/// What to do about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is about something else.
    None,
    /// It was worked into the answer.
    Seen,
    /// The answer must be asked for again.
    Ask,
}

/// An answer that can be watched.
pub(super) trait View {
    /// Asks for all of it.
    async fn ask(&mut self) -> Result<(), Problem>;
    /// Works an event into it.
    fn apply(&mut self, event: &StreamEvent) -> Effect;
    /// Writes it for a person.
    fn text(&self, now: Timestamp) -> String;
    /// Writes it for a program.
    fn json(&self) -> Value;
}

/// Prints an answer, then what changes, until the person has seen enough.
///
/// A terminal shows the answer as it is by now. Elsewhere each change is a line behind it, with
/// `--json` an object, and the whole answer follows again where it had to be asked for anew.
///
/// # Errors
/// When the answer cannot be had in the first place; as interrupted when somebody stops it.
pub(super) async fn watch(
    client: &Client,
    which: Vec<(&'static str, String)>,
    mut view: impl View,
    context: &Context<'_>,
) -> Result<(), Problem> {
    // First the stream, then the answer: what changes in between is told twice, and never missed.
    let mut news = events::follow(client, which).await?;
    view.ask().await?;
    let screen = context.output.paints().then(Screen::default);
    let asked = Instant::now();
    let output = context.output;
    let mut watch = Watch { view, output, screen, trouble: None, asked, must_ask: false };
    let mut goes_on = watch.screen.is_some() || watch.print("")?;
    let mut tick = tokio::time::interval(PAINT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while goes_on {
        let told = tokio::select! {
            // Cancel safe: all three only wait.
            _ = tokio::signal::ctrl_c() => return Err(interrupted()),
            told = news.recv() => told,
            _ = tick.tick() => None,
        };
        goes_on = match told {
            Some(News::Event(event)) => watch.hear(&event)?,
            Some(News::Lost(problem)) => watch.lose(&problem),
            Some(News::Back) => watch.find(),
            None => {
                tokio::select! {
                    // Cancel safe: the answer is not used any more.
                    _ = tokio::signal::ctrl_c() => return Err(interrupted()),
                    goes_on = watch.refresh() => goes_on?,
                }
            }
        };
    }
    Ok(())
}

/// An answer that is watched. Its methods say whether anybody still reads it.
struct Watch<'a, V> {
    view: V,
    output: &'a Output,
    /// A terminal that is painted anew; elsewhere one line follows another.
    screen: Option<Screen>,
    trouble: Option<String>,
    /// When the answer was asked for.
    asked: Instant,
    /// Whether it must be asked for anew.
    must_ask: bool,
}

impl<V: View> Watch<'_, V> {
    /// Prints the whole answer.
    fn print(&self, before: &str) -> Result<bool, Problem> {
        let text = format!("{before}{}", self.view.text(Timestamp::now()));
        self.output.follow(&text, &self.view.json())
    }

    /// Something changed.
    fn hear(&mut self, event: &StreamEvent) -> Result<bool, Problem> {
        let effect = self.view.apply(event);
        self.must_ask |= effect == Effect::Ask || event.r#type == "resync";
        if effect == Effect::None {
            return Ok(true);
        }
        if let Some(screen) = &mut self.screen {
            screen.add(line(event));
            return Ok(true);
        }
        let json = joined(event, json!({"schema": "event.v1"}));
        self.output.follow(&format!("{}\n", line(event)), &json)
    }

    /// Nothing is heard any more.
    fn lose(&mut self, problem: &Problem) -> bool {
        let said = human::plain(&format!("{}; trying again", problem.what));
        // Elsewhere than on a screen, once is enough.
        if self.trouble.is_none() && self.screen.is_none() {
            self.output.say(&said);
        }
        self.trouble = Some(said);
        true
    }

    /// All is heard again.
    fn find(&mut self) -> bool {
        if self.trouble.take().is_some() && self.screen.is_none() {
            self.output.say("the registry answers again");
        }
        self.must_ask = true;
        true
    }

    /// Asks anew where that must be, and paints the screen.
    async fn refresh(&mut self) -> Result<bool, Problem> {
        if self.must_ask && self.asked.elapsed() >= LASTS {
            // What cannot be had now is asked for again; the stream tells of the trouble.
            self.must_ask = self.view.ask().await.is_err();
            self.asked = Instant::now();
            if self.screen.is_none() && !self.must_ask {
                return self.print("\n");
            }
        }
        if let Some(screen) = &self.screen {
            let answer = self.view.text(Timestamp::now());
            self.output.paint(&screen.text(self.trouble.as_deref(), &answer))?;
        }
        Ok(true)
    }
}

/// What a terminal shows beside the answer.
#[derive(Debug, Default)]
struct Screen {
    recent: VecDeque<String>,
}

impl Screen {
    fn add(&mut self, line: String) {
        self.recent.push_back(line);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// Writes all of it. What is short and new stands first: an answer may be longer than a screen.
    fn text(&self, trouble: Option<&str>, answer: &str) -> String {
        let mut text = match trouble {
            Some(trouble) => format!("{}\n\n", trouble.red().bold()),
            None => String::new(),
        };
        for line in &self.recent {
            text.push_str(&format!("{line}\n"));
        }
        if !self.recent.is_empty() {
            text.push('\n');
        }
        text.push_str(answer);
        text
    }
}

/// Writes an event in one line.
fn line(event: &StreamEvent) -> String {
    let at = event.at;
    if let Some(host) = &event.host {
        let why = host.reason.as_ref().map(|reason| shown::brief(&reason.text));
        let line = format!(
            "{at}  {}  {}  {}",
            host.name,
            shown::state(host.state),
            why.unwrap_or_default()
        );
        return line.trim_end().to_owned();
    }
    if let Some(Publication { target, version, role, note, .. }) = &event.publication {
        let line = format!("{at}  {target}  #{version} by {role}  {}", shown::brief(note));
        return line.trim_end().to_owned();
    }
    let entry = event.entry.as_ref().map(|it| format!("  {}: {}", it.subject, it.detail));
    format!("{at}  {}{}", human::plain(&event.r#type), shown::brief(&entry.unwrap_or_default()))
}

/// The end of what would go on for ever.
fn interrupted() -> Problem {
    Problem::new(Kind::Interrupted, "interrupted", "stopped by a signal").leaves("nothing changed")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::cli::examples::{answer, hosts};

    fn event(kind: &str, more: Value) -> StreamEvent {
        answer(joined(&json!({"number": 7, "type": kind, "at": "2026-03-01T14:08:20Z"}), more))
    }

    #[test]
    fn a_screen_shows_trouble_then_what_is_new_then_the_answer() {
        let published = json!({"publication": {
            "target": "web/app", "epoch": 0, "version": 42, "digest": "2".repeat(64),
            "role": "platform", "role_version": 7, "signers": [],
            "published_at": "2026-03-01T14:02:11Z", "note": "security\u{1b}[2J",
        }});
        let entry = json!({"entry": {
            "number": 3, "at": "2026-03-01T14:02:11Z", "what": "enrolled", "subject": "web-22",
            "detail": "groups web",
        }});
        let mut screen = Screen::default();
        for _ in 0..9 {
            screen.add("long ago".to_owned());
        }
        for event in [
            event("host.rolled_back", json!({"host": hosts()[1]})),
            event("host.converged", json!({"host": hosts()[4]})),
            event("manifest.published", published),
            event("host.enrolled", entry),
            event("resync", json!({})),
        ] {
            screen.add(line(&event));
        }
        let text = screen.text(Some("cannot reach it; trying again"), "HOST  STATE\n");
        expect![[r#"
            cannot reach it; trying again

            2026-03-01T14:08:20Z  web-17  ↩R rolled_back  http-8080: answered 502  [31m3 times
            2026-03-01T14:08:20Z  web-01  ✓= converged
            2026-03-01T14:08:20Z  web/app  #42 by platform  security [2J
            2026-03-01T14:08:20Z  host.enrolled  web-22: groups web
            2026-03-01T14:08:20Z  resync

            HOST  STATE
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&text).to_string());
        assert_eq!(Screen::default().text(None, "HOST\n"), "HOST\n");
    }
}
