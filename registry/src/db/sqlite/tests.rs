use tempfile::TempDir;

use super::*;
use crate::{
    db::suite::suite,
    testing::{group, realm_name},
};

fn open() -> (TempDir, Sqlite) {
    let data = tempfile::tempdir().unwrap();
    let db = Sqlite::open(data.path()).unwrap();
    (data, db)
}

suite!(open());

#[tokio::test]
async fn a_job_that_fails_takes_no_other_with_it() {
    let (_data, db) = open();
    db.write(|c| Ok(c.execute_batch("CREATE TABLE t(x INTEGER PRIMARY KEY)")?)).await.unwrap();
    let insert = |x: i64| db.write(move |c| Ok(c.execute("INSERT INTO t VALUES (?1)", [x])?));
    let (one, again, two) = tokio::join!(insert(1), insert(1), insert(2));
    assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
    assert!(again.is_err());
    let count = db.read(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))?));
    assert_eq!(count.await.unwrap(), 2_i64);
}

#[tokio::test]
async fn refuses_the_database_of_a_newer_program() {
    let (data, db) = open();
    drop(db);
    let connection = Connection::open(file(data.path())).unwrap();
    connection.execute_batch("PRAGMA user_version = 999").unwrap();
    assert!(matches!(Sqlite::open(data.path()), Err(DbError::Newer { found: 999, .. })));
}

#[tokio::test]
async fn a_database_that_is_removed_while_it_is_in_use_takes_nothing_more() {
    let (data, db) = open();
    let query = || {
        let event = Event {
            realm: realm_name(),
            at: Time::parse("2026-01-01T00:00:00Z").unwrap(),
            what: crate::db::events::What::Restored,
            subject: String::new(),
            detail: String::new(),
        };
        db.note(event)
    };
    query().await.unwrap();
    fs::remove_file(file(data.path())).unwrap();
    assert!(matches!(query().await, Err(DbError::Gone(_))));
    // Nor does another one under its name.
    fs::write(file(data.path()), "").unwrap();
    assert!(matches!(query().await, Err(DbError::Gone(_))));
}

#[tokio::test]
async fn reports_are_turned_away_while_the_writer_is_busy_and_memory_is_bounded() {
    let (_data, db) = open();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, started) = oneshot::channel();
    let holding = {
        let db = db.clone();
        tokio::spawn(async move {
            db.write(move |_| {
                begun.send(()).unwrap();
                held.recv().unwrap();
                Ok(())
            })
            .await
        })
    };
    started.await.unwrap();
    let waiting: Vec<_> = (0..QUEUE)
        .map(|_| {
            let (job, answer) = job(|_| Ok(()));
            db.jobs.try_send(job).unwrap();
            answer
        })
        .collect();
    assert!(matches!(db.write_now(|_| Ok(())).await, Err(DbError::Busy)));
    release.send(()).unwrap();
    holding.await.unwrap().unwrap();
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    db.write_now(|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_kept_as_it_was_and_goes_on_in_ours() {
    let data = tempfile::tempdir().unwrap();
    let old = Connection::open(file(data.path())).unwrap();
    old.execute_batch(schema::FIRST).unwrap();
    old.execute_batch(&format!(
        "PRAGMA user_version = 1;
         INSERT INTO hosts (realm, host, name, certificate, enrolled_at, counter, highest)
         VALUES ('main', '{id}', 'web-1', '{certificate}', 1000, 40, 41);",
        id = shared::id::HostId([7; 32]),
        certificate = serde_json::json!({
            "format": 1, "realm": "main", "host": shared::id::HostId([7; 32]),
            "key": shared::id::RawKey([8; 32]), "name": "web-1", "groups": ["eu-prod"],
            "labels": {}, "not_after": "2099-01-01T00:00:00Z",
        }),
    ))
    .unwrap();
    drop(old);
    let db = Sqlite::open(data.path()).unwrap();
    let counts = db.counts(realm_name(), Some(group("eu-prod"))).await.unwrap();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(StateWord::Stale, 1)]);
    let found = db.host(realm_name(), "web-1".to_owned()).await.unwrap().unwrap();
    assert!(found.report.is_none());
    let counters = db.read(|c| {
        let select = "SELECT counter, highest FROM reports";
        Ok(c.query_row(select, [], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?)))?)
    });
    assert_eq!(counters.await.unwrap(), (40, 41), "an old report must not be taken again");
    let backups: Vec<_> = fs::read_dir(data.path().join("backups")).unwrap().collect();
    let backup = backups[0].as_ref().unwrap().path();
    assert_eq!((backups.len(), check(&backup).unwrap()), (1, 1));
    drop(db);
    assert_eq!(connect(data.path()).unwrap().1, Migrated::No);
}

#[tokio::test]
async fn lists_and_counts_scan_no_table() {
    let (_data, db) = open();
    let plan = |sql: &'static str| {
        db.read(move |c| {
            let mut explain = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let rows = explain.query_map([], |row| row.get::<_, String>(3))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?.join("\n"))
        })
    };
    for sql in [
        "SELECT name, id FROM members WHERE realm = 'a' AND list = 'b' AND (name, id) > ('c', 1)
         ORDER BY name, id LIMIT 9",
        "SELECT name, id FROM members WHERE realm = 'a' AND list = 'b' AND shown = 3
         AND (name, id) > ('c', 1) ORDER BY name, id LIMIT 9",
        "SELECT shown, hosts FROM counts WHERE realm = 'a' AND list = 'b' AND hosts > 0",
        "SELECT 1 FROM reports WHERE heard = 1 AND at < 5 LIMIT 1",
        "DELETE FROM members WHERE id = 1",
    ] {
        let plan = plan(sql).await.unwrap();
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}:\n{plan}");
    }
}
