//! The mail that says what somebody has not read, as text and as HTML. All that is in it was written by others: in the
//! HTML it is escaped, and nothing in it is a link but what is written here.

use resuni_dag::Pdu;
use ruma::{OwnedRoomId, RoomId, UserId};

use crate::mail::Letter;

/// Events that a mail shows; others are only counted.
const SHOWN: usize = 30;
/// Characters of a message and of a name that it shows.
const TEXT_CHARS: usize = 300;
const NAME_CHARS: usize = 80;

/// An event that somebody has not read.
pub(crate) struct Entry {
    room: OwnedRoomId,
    room_name: Option<String>,
    sender: String,
    what: What,
}

enum What {
    Said(String),
    /// The server can't read it.
    Encrypted,
    Invited,
    Did,
}

impl Entry {
    pub fn new(
        pdu: &Pdu,
        room: &RoomId,
        room_name: Option<String>,
        sender_name: Option<String>,
    ) -> Self {
        let body = || resuni_rooms::fields::string_member(pdu.content().get(), "body");
        let what = match pdu.kind() {
            "m.room.encrypted" => What::Encrypted,
            "m.room.member" => What::Invited,
            "m.room.message" => {
                body().map_or(What::Did, |body| What::Said(plain(&body, TEXT_CHARS)))
            }
            _ => What::Did,
        };
        let sender = sender_name.filter(|name| !name.trim().is_empty());
        Self {
            room: room.to_owned(),
            room_name: room_name.map(|name| plain(&name, NAME_CHARS)),
            sender: plain(
                sender.as_deref().unwrap_or(pdu.sender().as_str()),
                NAME_CHARS,
            ),
            what,
        }
    }

    fn says(&self) -> &str {
        match &self.what {
            What::Said(text) => text,
            What::Encrypted => "(an encrypted message)",
            What::Invited => "(an invite)",
            What::Did => "(something that is no text)",
        }
    }
}

/// One line of at most `most` characters, without characters that do something.
fn plain(text: &str, most: usize) -> String {
    let mut characters = text.chars().map(|c| match c {
        c if c.is_whitespace() || c.is_control() => ' ',
        c => c,
    });
    let mut line: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        line.push('…');
    }
    line
}

/// Text within HTML: in an element, or in a quoted attribute.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// What somebody has not read, by room in the order in which it came.
#[derive(Default)]
pub(crate) struct Unread {
    rooms: Vec<(OwnedRoomId, Vec<Entry>)>,
    count: usize,
}

impl Unread {
    pub fn add(&mut self, entry: Entry) {
        self.count += 1;
        if self.count > SHOWN {
            return;
        }
        match self.rooms.iter_mut().find(|(room, _)| *room == entry.room) {
            Some((_, entries)) => entries.push(entry),
            None => self.rooms.push((entry.room.clone(), vec![entry])),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The mail to `user` of the server called `server`.
    pub fn letter(&self, server: &str, user: &UserId, unsubscribe: String) -> Letter {
        let subject = match self.count {
            1 => format!("One unread message on {server}"),
            count => format!("{count} unread messages on {server}"),
        };
        Letter {
            text: self.text(user, &unsubscribe),
            html: self.html(user, &unsubscribe),
            subject,
            unsubscribe,
        }
    }

    fn more(&self) -> Option<String> {
        let more = self.count.saturating_sub(SHOWN);
        (more > 0).then(|| format!("… and {more} more."))
    }

    fn text(&self, user: &UserId, unsubscribe: &str) -> String {
        let mut out = format!("{user} has not read:\n");
        for (_, entries) in &self.rooms {
            out.push_str(&format!("\n{}\n", room_name(entries)));
            for entry in entries {
                out.push_str(&format!("  {}: {}\n", entry.sender, entry.says()));
            }
        }
        if let Some(more) = self.more() {
            out.push_str(&format!("\n{more}\n"));
        }
        out.push_str(&format!("\nNo more such mails: {unsubscribe}\n"));
        out
    }

    fn html(&self, user: &UserId, unsubscribe: &str) -> String {
        let mut out = format!(
            "<!DOCTYPE html><html><body><p>{} has not read:</p>",
            escaped(user.as_str())
        );
        for (_, entries) in &self.rooms {
            out.push_str(&format!(
                "<h3><bdi>{}</bdi></h3><ul>",
                escaped(room_name(entries))
            ));
            for entry in entries {
                let (sender, says) = (escaped(&entry.sender), escaped(entry.says()));
                out.push_str(&format!(
                    "<li><b><bdi>{sender}</bdi></b>: <bdi>{says}</bdi></li>"
                ));
            }
            out.push_str("</ul>");
        }
        if let Some(more) = self.more() {
            out.push_str(&format!("<p>{more}</p>"));
        }
        let link = escaped(unsubscribe);
        out.push_str(&format!(
            "<p><a href=\"{link}\">No more such mails</a></p></body></html>"
        ));
        out
    }
}

fn room_name(entries: &[Entry]) -> &str {
    let name = entries
        .iter()
        .rev()
        .find_map(|entry| entry.room_name.as_deref());
    name.unwrap_or(match entries.first().map(|entry| &entry.what) {
        Some(What::Invited) => "Invites",
        _ => "A conversation",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(room: &str, sender: &str, what: What) -> Entry {
        Entry {
            room: RoomId::parse(room).unwrap(),
            room_name: Some(plain("<b>Tea</b>\r\nBcc: all", NAME_CHARS)),
            sender: sender.to_owned(),
            what,
        }
    }

    #[test]
    fn s108_what_others_wrote_is_text_and_on_one_line() {
        let mut unread = Unread::default();
        let said = plain("<script>alert('1')</script>\n\"x\" & y", TEXT_CHARS);
        unread.add(entry("!a:h", "<i>Eve</i>", What::Said(said)));
        unread.add(entry("!b:h", "Bob", What::Encrypted));
        let user = ruma::user_id!("@alice:h");
        let letter = unread.letter("h", user, "https://h/?a=1&b=2".to_owned());
        assert_eq!(letter.subject, "2 unread messages on h");
        assert!(!letter.html.contains("<script") && !letter.html.contains("<i>"));
        assert!(letter.html.contains("&lt;script&gt;alert(&#39;1&#39;)"));
        assert!(letter.html.contains("href=\"https://h/?a=1&amp;b=2\""));
        assert!(letter.text.contains("<b>Tea</b>  Bcc: all\n"));
        assert!(letter.text.contains("  Bob: (an encrypted message)\n"));
    }

    #[test]
    fn long_mails_are_cut() {
        let mut unread = Unread::default();
        for n in 0..SHOWN + 5 {
            let said = What::Said(format!("message {n}"));
            unread.add(entry("!a:h", "Bob", said));
        }
        let letter = unread.letter("h", ruma::user_id!("@alice:h"), String::new());
        assert!(letter.text.contains("message 29\n") && !letter.text.contains("message 30"));
        assert!(letter.text.contains("… and 5 more."));
        assert_eq!(plain(&"x".repeat(400), TEXT_CHARS).chars().count(), 301);
    }
}
