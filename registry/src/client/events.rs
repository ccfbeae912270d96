//! Following what changes at a registry: JSON Lines that never end, over connections that do.

use std::time::Duration;

use rand::{TryRng as _, rngs::SysRng};
use reqwest::{Response, header};
use shared::{
    api::StreamEvent,
    problem::{Kind, Problem},
};
use tokio::sync::mpsc;

use super::{Client, MAX_ANSWER};

/// The first pause before a registry is asked again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// News that wait for one who follows.
const WAITING: usize = 64;

/// What one who follows is told.
#[derive(Debug)]
pub(crate) enum News {
    /// Something changed.
    Event(Box<StreamEvent>),
    /// Nothing is heard any more; it is tried again.
    Lost(Problem),
    /// All is heard again, and what came in between is told first.
    Back,
}

/// Follows what changes from now on, or what `which` says of it. It ends when nobody receives.
///
/// # Errors
/// When the registry cannot be reached, or refuses to tell; only the first time.
pub(crate) async fn follow(
    client: &Client,
    which: Vec<(&'static str, String)>,
) -> Result<mpsc::Receiver<News>, Problem> {
    let mut stream = Stream { client: client.clone(), which, last: None };
    let first = stream.connect().await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            // Cancel safe: nothing is kept here.
            () = sender.closed() => {}
            () = stream.run(first, &sender) => {}
        }
    });
    Ok(receiver)
}

/// A stream of events that outlives its connections.
struct Stream {
    client: Client,
    which: Vec<(&'static str, String)>,
    /// The number of the last event that came.
    last: Option<u64>,
}

impl Stream {
    async fn connect(&self) -> Result<Response, Problem> {
        let mut url = self.client.url("events")?;
        let after = self.last.map(|last| ("after", last.to_string()));
        url.query_pairs_mut().extend_pairs(self.which.iter().cloned().chain(after));
        let request = self.client.reading(url).header(header::ACCEPT, "application/x-ndjson");
        self.client.good(request).await
    }

    async fn run(&mut self, first: Response, sender: &mpsc::Sender<News>) {
        let mut connection = Some(first);
        let mut pause = PAUSES.0;
        loop {
            let told = match connection.take() {
                Some(response) => self.read(response, sender, &mut pause).await,
                None => match self.connect().await {
                    Ok(response) => {
                        connection = Some(response);
                        Ok(News::Back)
                    }
                    Err(problem) => Err(problem),
                },
            };
            let news = told.unwrap_or_else(News::Lost);
            let is_lost = matches!(news, News::Lost(_));
            if sender.send(news).await.is_err() {
                return;
            }
            if is_lost {
                // Many follow one registry: they must not come back all at once.
                tokio::time::sleep(pause.mul_f64(0.5 + share())).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// Tells all that comes over one connection, until it ends: that is what it returns.
    async fn read(
        &mut self,
        mut response: Response,
        sender: &mpsc::Sender<News>,
        pause: &mut Duration,
    ) -> Result<News, Problem> {
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk.map_err(|error| self.client.unreachable(error).problem())?;
            let Some(chunk) = chunk else {
                let what = "the registry has ended its stream of events";
                return Err(Problem::new(Kind::Unreachable, "ended", what));
            };
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: StreamEvent = serde_json::from_slice(&line).map_err(|error| {
                    Problem::from_error(Kind::Runtime, "answer", &error)
                        .because("while reading an event")
                        .fix("use the same version of this program as the registry")
                })?;
                self.last = Some(event.number);
                *pause = PAUSES.0;
                if sender.send(News::Event(Box::new(event))).await.is_err() {
                    return Ok(News::Back);
                }
            }
            if buffer.len() as u64 > MAX_ANSWER {
                let what = "an event of the registry is too long";
                return Err(Problem::new(Kind::Trust, "too_long", what));
            }
        }
    }
}

/// Returns a random number from 0 to 1.
fn share() -> f64 {
    // Without randomness the pause is as good as any.
    SysRng.try_next_u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_stream_goes_on_behind_the_last_event_over_a_new_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for number in [7, 8, 9] {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = connection.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..length]).into_owned());
                // In pieces: a line may come in several.
                let event = format!(
                    r#"{{"number":{number},"type":"heartbeat","at":"2026-03-01T14:08:20Z"}}"#
                );
                let (begin, end) = event.split_at(20);
                for piece in ["HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", begin, end, "\n"] {
                    connection.write_all(piece.as_bytes()).await.unwrap();
                    connection.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            asked
        });
        let client = Client::new(&base, "main").unwrap();
        let which = vec![("group", "eu".to_owned())];
        let mut news = follow(&client, which).await.unwrap();
        let mut heard = Vec::new();
        let mut lost = 0;
        while heard.len() < 3 {
            match news.recv().await.unwrap() {
                News::Event(event) => heard.push(event.number),
                News::Lost(_) => lost += 1,
                News::Back => {}
            }
        }
        assert_eq!(heard, [7, 8, 9]);
        assert_eq!(lost, 2, "each end is told");
        let asked = server.await.unwrap();
        let first = |asked: &str| asked.lines().next().unwrap().to_owned();
        assert_eq!(first(&asked[0]), "GET /api/v1/realms/main/events?group=eu HTTP/1.1");
        assert_eq!(first(&asked[2]), "GET /api/v1/realms/main/events?group=eu&after=8 HTTP/1.1");
        assert!(asked[0].contains("accept: application/x-ndjson"), "{}", asked[0]);
    }
}
