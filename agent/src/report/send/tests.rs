use shared::problem::Kind;

use super::*;

fn problem(code: &str) -> Problem {
    Problem::new(Kind::Conflict, code, "no")
}

#[test]
fn a_nonce_that_would_not_fit_is_no_challenge() {
    let answer = |length, counter| {
        let (problem, nonce) = (problem("challenge"), "n".repeat(length));
        serde_json::to_vec(&Challenge { problem, nonce, counter }).unwrap()
    };
    let fits = Some(("n".repeat(MAX_NONCE), Some(7)));
    assert_eq!(challenge(&answer(MAX_NONCE, Some(7))), fits);
    assert_eq!(challenge(&answer(MAX_NONCE + 1, None)), None);
    assert_eq!(challenge(b"{}"), None);
}

#[test]
fn only_what_no_later_attempt_could_mend_is_hopeless() {
    let answer = |status: u16, code: &str| {
        let body = serde_json::to_vec(&problem(code)).unwrap();
        read_answer(StatusCode::from_u16(status).unwrap(), &body)
    };
    assert_eq!(answer(200, ""), Ok(Answer::Taken));
    for (status, code) in [(422, "malformed"), (413, "too_large"), (403, "other_host")] {
        assert_eq!(answer(status, code), Ok(Answer::Hopeless("no".to_owned())), "{code}");
    }
    for (status, code) in [(403, "revoked"), (503, "busy"), (500, "internal"), (401, "other")] {
        assert_eq!(answer(status, code), Err("no".to_owned()), "{code}");
    }
    // A web server that carries the files of a mirror, and knows nothing of reports.
    for status in [404, 405, 413, 501] {
        let status = StatusCode::from_u16(status).unwrap();
        assert!(read_answer(status, b"<html>no</html>").is_err(), "{status}");
    }
}

#[test]
fn a_report_is_cut_until_it_fits_and_keeps_what_needs_an_eye() {
    let profile = |name: &str, state: &str| {
        let text = format!(
            r#"{{"group":"eu","profile":"{name}","state":"{state}","since":"2026-03-01T14:04:00Z",
            "reason":{{"code":"c","text":"t"}},"next":"agent status","wanted":null,"running":null,
            "healthy_since":null,"attempt":{{"id":"a","phases":[],"log":"{}"}}}}"#,
            "x".repeat(4096)
        );
        serde_json::from_str::<ProfileReport>(&text).unwrap()
    };
    let profiles = (0..100).map(|number| {
        profile(&format!("p{number}"), if number == 99 { "failed" } else { "converged" })
    });
    let whole = Report { profiles: profiles.collect(), ..super::super::outbox::tests::report(1) };
    let length = |report: &Report| report.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
    for (max, profiles) in [(1 << 19, 100), (40_000, 100), (10_000, 43)] {
        let mut report = whole.clone();
        fit(&mut report, max.min(report::MAX_LEN)).unwrap();
        assert!(length(&report) <= max, "{} > {max}", length(&report));
        assert!(report.profiles.len() >= profiles / 2, "{}", report.profiles.len());
        assert!(report.profiles.iter().any(|it| it.profile.as_str() == "p99"));
    }
}
