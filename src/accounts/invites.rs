//! Who may invite an account (spec, "Invite permission"; MSC4155).

use ruma::UserId;
use serde::Deserialize;

use crate::{AccountNum, Accounts, error::AccountError};

/// The types of account data that say so: the stable one, and those of the proposals.
const CONFIGS: [&str; 3] = [
    "m.invite_permission_config",
    "org.matrix.msc4380.invite_permission_config",
    "org.matrix.msc4155.invite_permission_config",
];

/// What happens to an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteVerdict {
    /// It is shown.
    Allow,
    /// It is not shown, and nobody is told.
    Ignore,
    /// It is refused.
    Block,
}

/// The content of the account data. A list that is null counts as empty; one that is anything else
/// but a list of strings makes the whole invalid, which then says nothing.
#[derive(Deserialize)]
struct Config {
    enabled: Option<bool>,
    default_action: Option<String>,
    allowed_users: Option<Vec<String>>,
    ignored_users: Option<Vec<String>>,
    blocked_users: Option<Vec<String>>,
    allowed_servers: Option<Vec<String>>,
    ignored_servers: Option<Vec<String>>,
    blocked_servers: Option<Vec<String>>,
}

impl Config {
    fn judge(&self, inviter: &UserId) -> InviteVerdict {
        use InviteVerdict::{Allow, Block, Ignore};
        if self.enabled == Some(false) {
            return Allow;
        }
        let (user, server) = (inviter.as_str(), inviter.server_name().host());
        let steps = [
            (&self.allowed_users, user, Allow),
            (&self.ignored_users, user, Ignore),
            (&self.blocked_users, user, Block),
            (&self.allowed_servers, server, Allow),
            (&self.ignored_servers, server, Ignore),
            (&self.blocked_servers, server, Block),
        ];
        for (globs, name, verdict) in steps {
            if globs.iter().flatten().any(|glob| matches(glob, name)) {
                return verdict;
            }
        }
        match self.default_action.as_deref() {
            Some("block") => Block,
            _ => Allow,
        }
    }
}

/// Whether `glob`, in which `*` stands for anything and `?` for one character, matches all of `text`.
/// Costs no more than the product of both lengths.
fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    (g, t) = (at + 1, from + 1);
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

impl Accounts {
    /// What happens to an invite of `inviter` to an account.
    pub async fn judge_invite(
        &self,
        account: AccountNum,
        inviter: &UserId,
    ) -> Result<InviteVerdict, AccountError> {
        for kind in CONFIGS {
            let Some(content) = self.account_data(account, None, kind).await? else {
                continue;
            };
            if let Ok(config) = serde_json::from_str::<Config>(content.get()) {
                let verdict = config.judge(inviter);
                if verdict != InviteVerdict::Allow {
                    return Ok(verdict);
                }
            }
        }
        Ok(InviteVerdict::Allow)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{accounts, alice};

    async fn judge(config: Value, inviter: &str) -> InviteVerdict {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        accounts
            .set_account_data(alice, None, CONFIGS[2], config.as_object().unwrap())
            .await
            .unwrap();
        let inviter = UserId::parse(inviter).unwrap();
        accounts.judge_invite(alice, &inviter).await.unwrap()
    }

    #[tokio::test]
    async fn the_first_list_that_matches_decides() {
        use InviteVerdict::{Allow, Block, Ignore};
        let config = json!({
            "allowed_users": ["@good:*"], "ignored_users": ["@bore?:evil.org"],
            "blocked_users": ["@b*"], "allowed_servers": ["ok.org"],
            "ignored_servers": null, "blocked_servers": ["*"],
        });
        for (inviter, expected) in [
            ("@good:evil.org", Allow),
            ("@bored:evil.org:8448", Block),
            ("@bored:evil.org", Ignore),
            ("@bob:ok.org", Block),
            ("@carol:ok.org:443", Allow),
            ("@carol:evil.org", Block),
        ] {
            assert_eq!(judge(config.clone(), inviter).await, expected, "{inviter}");
        }
        let off = json!({ "enabled": false, "blocked_servers": ["*"] });
        assert_eq!(judge(off, "@a:b").await, Allow);
        assert_eq!(
            judge(json!({ "default_action": "block" }), "@a:b").await,
            Block
        );
        let invalid = json!({ "blocked_servers": ["*"], "blocked_users": [1] });
        assert_eq!(judge(invalid, "@a:b").await, Allow);
    }

    #[tokio::test]
    async fn without_a_word_everybody_may() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let verdict = accounts
            .judge_invite(alice, user_id!("@a:b"))
            .await
            .unwrap();
        assert_eq!(verdict, InviteVerdict::Allow);
    }
}
