//! A rule table as TOML. `Table::parse` reads it back as the same table.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use super::{
    row::{Out, Row},
    table::{Profile, Table},
    template::toml_text,
};

impl Table {
    /// The table as a file: what `roomcast events` prints.
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        self.write(&mut toml).expect("a text takes what is written to it");
        toml
    }

    /// 16 hex digits that are the same for tables with the same meaning.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.to_toml());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn write(&self, toml: &mut String) -> fmt::Result {
        let namespaces: Vec<String> = self.namespaces.iter().map(|name| toml_text(name)).collect();
        writeln!(toml, "namespaces = [{}]", namespaces.join(", "))?;
        for profile in self.profiles() {
            write_profile(toml, profile, std::ptr::eq(profile, &self.default))?;
        }
        if !self.origins.is_empty() {
            writeln!(toml, "\n[origins]")?;
        }
        for (origin, profile) in &self.origins {
            writeln!(toml, "{} = {}", toml_text(origin), toml_text(profile))?;
        }
        Ok(())
    }
}

fn write_profile(toml: &mut String, profile: &Profile, is_default: bool) -> fmt::Result {
    let head = if is_default { String::new() } else { format!("profile.{}", profile.name()) };
    if !is_default {
        writeln!(toml, "\n[{head}]")?;
    }
    writeln!(toml, "say = {}", profile.say)?;
    if !profile.hello.is_empty() {
        writeln!(toml, "hello = {}", list(&profile.hello))?;
    }
    if !profile.every.is_empty() {
        let ticks = profile
            .every
            .iter()
            .map(|tick| format!("{{ ms = {}, out = {} }}", tick.period.as_millis(), tick.out));
        writeln!(toml, "every = [{}]", ticks.collect::<Vec<_>>().join(", "))?;
    }
    writeln!(toml, "\n[{head}{}on]", if is_default { "" } else { "." })?;
    for (event, rows) in &profile.on {
        match &**rows {
            [row] => writeln!(toml, "{} = {row}", toml_text(event))?,
            rows => {
                writeln!(toml, "{} = [", toml_text(event))?;
                rows.iter().try_for_each(|row| writeln!(toml, "  {row},"))?;
                writeln!(toml, "]")?;
            }
        }
    }
    Ok(())
}

fn list(outs: &[Out]) -> String {
    let outs: Vec<String> = outs.iter().map(Out::to_string).collect();
    format!("[{}]", outs.join(", "))
}

/// The event as TOML.
impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", toml_text(&self.event))?;
        self.arguments.iter().try_for_each(|argument| write!(f, ", {argument}"))?;
        f.write_str("]")
    }
}

/// The row as TOML.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = Vec::new();
        fields.extend(self.when.as_ref().map(|word| format!("when = \"{word}\"")));
        for (name, template) in [
            ("me", &self.me),
            ("join", &self.join),
            ("leave", &self.leave),
            ("room", &self.room),
            ("to", &self.to),
        ] {
            fields.extend(template.as_ref().map(|template| format!("{name} = {template}")));
        }
        fields.extend(self.lobby.then(|| "lobby = true".to_owned()));
        fields.extend(self.except_me.then(|| "except = \"me\"".to_owned()));
        fields.extend((!self.keep).then(|| "keep = false".to_owned()));
        for (name, template) in
            [("id", &self.id), ("text", &self.text), ("user", &self.user), ("ack", &self.ack)]
        {
            fields.extend(template.as_ref().map(|template| format!("{name} = {template}")));
        }
        match &*self.out {
            [] => {}
            [out] => fields.push(format!("out = {out}")),
            outs => fields.push(format!("out = {}", list(outs))),
        }
        write!(f, "{{ {} }}", fields.join(", "))
    }
}
