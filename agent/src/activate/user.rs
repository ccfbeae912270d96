//! As whom a team's programs run: decided from values, looked up in `/etc/passwd`.

use shared::id::{ProfileName, UserName};

/// Who the agent is, and which users exist and are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// The agent's own user id.
    pub(crate) uid: u32,
    /// The text of `/etc/passwd`.
    pub(crate) passwd: String,
    /// Users that other profiles on this host run as.
    pub(crate) taken: Vec<(ProfileName, UserName)>,
}

/// A user of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// The user id.
    pub(crate) uid: u32,
    /// The primary group.
    pub(crate) gid: u32,
}

/// Why nobody may run the programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    /// A root agent would have to run them as root.
    #[error("the policy names no user, and the profile is not privileged")]
    NoUser,
    /// No such user.
    #[error("user `{0}` does not exist on this host")]
    Missing(UserName),
    /// Root under another name.
    #[error("user `{0}` is root, and the profile is not privileged")]
    Root(UserName),
    /// One user for two profiles could change what the other runs.
    #[error("user `{user}` is that of profile `{other}`")]
    Taken {
        /// The user.
        user: UserName,
        /// The profile that has it.
        other: ProfileName,
    },
    /// An agent that is not root cannot become somebody else.
    #[error("the policy names user `{0}`, and this agent is neither root nor that user")]
    NotOurs(UserName),
    /// An agent that is not root cannot become root.
    #[error("the profile is privileged, and this agent is not root")]
    NotRoot,
}

/// Returns whom to become; `None` is who we are.
pub(crate) fn choose(
    host: &Host,
    user: Option<&UserName>,
    privileged: bool,
) -> Result<Option<Account>, UserError> {
    if host.uid != 0 {
        if privileged {
            return Err(UserError::NotRoot);
        }
        return match user {
            None => Ok(None),
            Some(user) if host.find(user).is_some_and(|account| account.uid == host.uid) => {
                Ok(None)
            }
            Some(user) => Err(UserError::NotOurs(user.clone())),
        };
    }
    if privileged {
        return Ok(None);
    }
    let user = user.ok_or(UserError::NoUser)?;
    let account = host.find(user).ok_or_else(|| UserError::Missing(user.clone()))?;
    if account.uid == 0 {
        return Err(UserError::Root(user.clone()));
    }
    let same = |(_, other): &&(ProfileName, UserName)| {
        // Two names may be one user.
        other == user || host.find(other).is_some_and(|other| other.uid == account.uid)
    };
    if let Some((other, _)) = host.taken.iter().find(same) {
        return Err(UserError::Taken { user: user.clone(), other: other.clone() });
    }
    Ok(Some(account))
}

impl Host {
    /// Reads who we are and who else exists.
    pub(crate) fn read(taken: Vec<(ProfileName, UserName)>) -> std::io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        Ok(Self { uid, passwd: std::fs::read_to_string("/etc/passwd")?, taken })
    }

    /// Returns the first account of a user id.
    pub(super) fn account(&self, uid: u32) -> Option<Account> {
        self.accounts().map(|(_, account)| account).find(|account| account.uid == uid)
    }

    fn find(&self, user: &UserName) -> Option<Account> {
        self.accounts().find(|(name, _)| *name == user.as_str()).map(|(_, account)| account)
    }

    fn accounts(&self) -> impl Iterator<Item = (&str, Account)> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some((name, Account { uid, gid }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(uid: u32) -> Host {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\
            toor:x:0:0::/root:/bin/sh\n\
            web:x:990:980::/var/empty:/bin/false\n\
            site:x:990:980::/var/empty:/bin/false\n\
            db:x:991:981::/var/empty:/bin/false\n";
        let taken = vec![("other".parse().unwrap(), "db".parse().unwrap())];
        Host { uid, passwd: passwd.into(), taken }
    }

    fn chosen(uid: u32, user: &str, privileged: bool) -> Result<Option<Account>, String> {
        let user = (!user.is_empty()).then(|| user.parse().unwrap());
        choose(&host(uid), user.as_ref(), privileged).map_err(|error| error.to_string())
    }

    #[test]
    fn a_root_agent_runs_what_is_not_privileged_as_its_own_user_alone() {
        assert_eq!(chosen(0, "web", false), Ok(Some(Account { uid: 990, gid: 980 })));
        assert_eq!(chosen(0, "", true), Ok(None));
        assert!(chosen(0, "", false).unwrap_err().contains("names no user"));
        assert!(chosen(0, "ghost", false).unwrap_err().contains("does not exist"));
        assert!(chosen(0, "root", false).unwrap_err().contains("is root"));
        assert!(chosen(0, "toor", false).unwrap_err().contains("is root"));
        assert!(chosen(0, "db", false).unwrap_err().contains("that of profile `other`"));
    }

    #[test]
    fn one_user_with_two_names_is_taken_under_both() {
        let mut host = host(0);
        host.taken = vec![("other".parse().unwrap(), "site".parse().unwrap())];
        let user = "web".parse().unwrap();
        assert!(matches!(choose(&host, Some(&user), false), Err(UserError::Taken { .. })));
    }

    #[test]
    fn another_agent_runs_as_itself_alone() {
        assert_eq!(chosen(990, "", false), Ok(None));
        assert_eq!(chosen(990, "web", false), Ok(None));
        assert!(chosen(990, "db", false).unwrap_err().contains("neither root nor that user"));
        assert!(chosen(990, "", true).unwrap_err().contains("not root"));
    }
}
