//! [`StructColumn`]: builds a column of structs from objects, member by member.

use std::collections::HashMap;

use datafusion::arrow::array::{ArrayBuilder, ArrayRef, NullBufferBuilder, StructArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::Fields;

use super::column::{Cell, Column};
use super::json::{self, JsonType, Value};
use super::time::FinerTimes;
use crate::stream::record::plain_field;

/// Finds columns by the names of members.
pub(super) struct MemberNames {
    /// The names of the columns in order, and their indexes.
    names: Vec<String>,
    places: HashMap<String, usize>,
    /// Buffer for a name without its escapes.
    unescaped: String,
}

impl MemberNames {
    pub fn of(fields: &Fields) -> Self {
        let names: Vec<_> = fields.iter().map(|field| field.name().clone()).collect();
        MemberNames {
            places: names.iter().cloned().zip(0..).collect(),
            names,
            unescaped: String::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The column of this name, if there is one; tries `next` first.
    #[inline]
    pub fn place(&mut self, name: Value<'_>, next: usize) -> Option<usize> {
        let name = match name.kind {
            JsonType::Text(true) => {
                self.unescaped.clear();
                json::unescape(name.text, &mut self.unescaped).ok()?;
                &self.unescaped
            }
            _ => name.text,
        };
        match self.names.get(next) {
            Some(expected) if expected == name => Some(next),
            _ => self.places.get(name).copied(),
        }
    }
}

/// Builds a column of structs.
pub(super) struct StructColumn {
    /// With the texts of enums.
    fields: Fields,
    columns: Vec<Column>,
    names: MemberNames,
    /// The member of each column in the object that is read.
    members: Vec<Member>,
    valid: NullBufferBuilder,
}

/// A member of an object, by its place in the object's text.
#[derive(Clone, Copy)]
enum Member {
    Missing,
    Twice,
    At {
        kind: JsonType,
        start: usize,
        end: usize,
    },
}

impl StructColumn {
    /// `None` if the type of a field is not supported.
    pub fn of(fields: &Fields, finer: FinerTimes) -> Option<Self> {
        let columns = fields.iter().map(|field| Column::of(field, finer));
        Some(StructColumn {
            columns: columns.collect::<Option<_>>()?,
            names: MemberNames::of(fields),
            members: vec![Member::Missing; fields.len()],
            fields: fields.clone(),
            valid: NullBufferBuilder::new(0),
        })
    }

    /// Adds the struct of an object's text. If it fails, some columns have a value for it.
    pub fn add(&mut self, object: &str, unescaped: &mut String) -> Result<(), String> {
        self.members.fill(Member::Missing);
        let (members, names) = (&mut self.members, &mut self.names);
        // Most writers write members in the same order.
        let mut next = 0;
        let scanned = json::object(object, |name, value| {
            let Some(place) = names.place(name, next) else {
                return;
            };
            next = place + 1;
            let start = value.text.as_ptr() as usize - object.as_ptr() as usize;
            members[place] = match members[place] {
                Member::Missing => Member::At {
                    kind: value.kind,
                    start,
                    end: start + value.text.len(),
                },
                _ => Member::Twice,
            };
        });
        scanned.map_err(|fault| fault.what)?;
        let columns = self.columns.iter_mut().zip(&self.fields);
        for ((column, field), member) in columns.zip(&self.members) {
            let cell = match *member {
                Member::Missing => Cell::Missing,
                Member::Twice => Cell::Twice,
                Member::At { kind, start, end } => Cell::Json(Value {
                    kind,
                    text: &object[start..end],
                }),
            };
            let added = column.add(cell, field, unescaped);
            added.map_err(|why| format!("`{}`: {why}", field.name()))?;
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Adds a placeholder in place of a struct that failed.
    pub fn add_nothing(&mut self) {
        self.fill();
        self.valid.append_non_null();
    }

    pub fn append_null(&mut self) {
        self.fill();
        self.valid.append_null();
    }

    fn fill(&mut self) {
        for column in &mut self.columns {
            if column.len() == self.valid.len() {
                column.add_nothing();
            }
        }
    }

    pub fn len(&self) -> usize {
        self.valid.len()
    }

    pub fn finish(&mut self) -> StructArray {
        let (rows, valid) = (self.valid.len(), self.valid.finish());
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        self.structs(columns, rows, valid)
    }

    pub fn finish_cloned(&self) -> StructArray {
        let (rows, valid) = (self.valid.len(), self.valid.finish_cloned());
        let columns = self.columns.iter().map(ArrayBuilder::finish_cloned);
        self.structs(columns.collect(), rows, valid)
    }

    fn structs(
        &self,
        columns: Vec<ArrayRef>,
        rows: usize,
        valid: Option<NullBuffer>,
    ) -> StructArray {
        if columns.is_empty() {
            return StructArray::new_empty_fields(rows, valid);
        }
        let fields = self.fields.iter().map(|field| plain_field(field));
        StructArray::new(fields.collect(), columns, valid)
    }
}
