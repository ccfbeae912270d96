use super::*;

fn path(name: &str) -> StorePath {
    StorePath::from_base_name(&format!("9a455acx720hx0zfwn0q7gn8y2jrvllr-{name}")).unwrap()
}

fn numbers(profile: &Profile) -> Vec<u64> {
    profile.generations().unwrap().iter().map(|generation| generation.number).collect()
}

fn current(profile: &Profile) -> u64 {
    profile.current().unwrap().unwrap().number
}

#[test]
fn generations_count_up_and_roll_back() {
    let folder = tempfile::tempdir().unwrap();
    let profile = Profile::open(&folder.path().join("a/b/web")).unwrap();
    assert_eq!(profile.current().unwrap(), None);
    assert_eq!(profile.set(&path("a")).unwrap().number, 1);
    assert_eq!(profile.set(&path("b")).unwrap().number, 2);
    assert_eq!(profile.set(&path("b")).unwrap().number, 2);
    assert_eq!(profile.rollback().unwrap().path, path("a"));
    assert!(matches!(profile.rollback(), Err(ProfileError::NoOlderGeneration(_))));
    assert_eq!(fs::read_link(profile.link()).unwrap(), Path::new("web-1-link"));
    assert_eq!(profile.switch_to(2).unwrap().path, path("b"));
    assert!(matches!(profile.switch_to(3), Err(ProfileError::NoGeneration { .. })));
    let names: Vec<_> = fs::read_dir(folder.path().join("a/b")).unwrap().collect();
    assert_eq!(names.len(), 3, "no lock or temporary link stays: {names:?}");
}

#[test]
fn a_number_follows_the_highest_not_the_current() {
    let folder = tempfile::tempdir().unwrap();
    let profile = Profile::open(&folder.path().join("web")).unwrap();
    for name in ["a", "b", "c"] {
        profile.set(&path(name)).unwrap();
    }
    profile.switch_to(1).unwrap();
    assert_eq!(profile.set(&path("c")).unwrap().number, 3, "the highest is reused");
    profile.switch_to(1).unwrap();
    assert_eq!(profile.set(&path("a")).unwrap().number, 4, "even if the current is the same");
    profile.switch_to(1).unwrap();
    profile.delete(&[3, 4, 9]).unwrap();
    assert_eq!(numbers(&profile), [1, 2]);
    assert_eq!(profile.set(&path("d")).unwrap().number, 3, "a deleted highest is reused");
}

#[test]
fn never_deletes_the_current_generation() {
    let folder = tempfile::tempdir().unwrap();
    let profile = Profile::open(&folder.path().join("web")).unwrap();
    profile.set(&path("a")).unwrap();
    profile.set(&path("b")).unwrap();
    assert!(matches!(profile.delete(&[1, 2]), Err(ProfileError::Current { number: 2, .. })));
    assert_eq!(numbers(&profile), [1, 2]);
    assert_eq!(current(&profile), 2);
}

#[test]
fn names_that_begin_alike_are_not_mixed_up() {
    let folder = tempfile::tempdir().unwrap();
    let web = Profile::open(&folder.path().join("web")).unwrap();
    let web_2 = Profile::open(&folder.path().join("web-2")).unwrap();
    web_2.set(&path("other")).unwrap();
    web.set(&path("a")).unwrap();
    for name in ["web-x-link", "web-+7-link", "web-8-link.tmp-1-2", "web--link"] {
        symlink(path("z").to_string(), folder.path().join(name)).unwrap();
    }
    symlink("/elsewhere", folder.path().join("web-5-link")).unwrap();
    assert_eq!(numbers(&web), [1]);
    assert_eq!(numbers(&web_2), [1]);
    assert_eq!(web.set(&path("b")).unwrap().number, 6);
}

#[test]
fn what_a_crash_left_behind_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let profile = Profile::open(&folder.path().join("web")).unwrap();
    profile.set(&path("a")).unwrap();
    symlink("web-1-link", folder.path().join(".shoal_web")).unwrap();
    symlink("web-1-link", folder.path().join(".0_web")).unwrap();
    fs::write(folder.path().join("web.lock"), "").unwrap();
    symlink(path("b").to_string(), folder.path().join("web-2-link")).unwrap();
    assert_eq!(current(&profile), 1);
    assert_eq!(profile.set(&path("b")).unwrap().number, 2);
    assert_eq!(current(&profile), 2);
    assert!(folder.path().join(".shoal_web").symlink_metadata().is_err(), "it was ours");
    let others = folder.path().join(".0_web");
    assert!(others.symlink_metadata().is_ok(), "a `nix-env --set`, which takes no lock, is at it");
}

#[test]
fn going_back_to_what_is_there_clears_away_what_a_crash_left() {
    let folder = tempfile::tempdir().unwrap();
    let profile = Profile::open(&folder.path().join("web")).unwrap();
    profile.set(&path("a")).unwrap();
    symlink("web-2-link", folder.path().join(".shoal_web")).unwrap();
    profile.switch_to(1).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
