//! Deleting: purges, single messages, and what becomes of dead letters.

use claudebus::model::api::{ApiRequest, DeadOptions, PurgeOptions};

use crate::book::{Id, Purge, matches};
use crate::clients::{Asked, Simulation};
use crate::world::Halt;

use super::LEAVES;

impl Simulation {
    pub(super) fn purge(&mut self) {
        let stream = self.draw_stream();
        let book = &self.book.streams[stream];
        if !book.exists || self.world.chance.one_in(2) {
            return;
        }
        let filter = self.world.chance.one_in(2).then(|| format!("{}.{}", book.prefix, LEAVES[0]));
        let highest = book.by_seq.last_key_value().map_or(0, |(seq, _)| *seq);
        let below =
            if self.world.chance.one_in(2) { self.world.chance.below(highest + 2) } else { 0 };
        let purge =
            Purge { filter: filter.clone(), below: if below == 0 { u64::MAX } else { below } };
        let is_meant = |seq: u64, id: &Id| {
            seq < purge.below
                && filter.as_ref().is_none_or(|f| matches(f, &self.book.sent[id].subject))
        };
        let seqs: Vec<u64> =
            book.by_seq.iter().filter(|(seq, id)| is_meant(**seq, id)).map(|(s, _)| *s).collect();
        let asked = Asked::Purge { stream, epoch: book.epoch, seqs };
        let request = ApiRequest::StreamPurge {
            stream: book.name.clone(),
            options: PurgeOptions { filter, seq: below, keep: 0 },
        };
        self.book.streams[stream].purges.push(purge);
        self.ask_about(asked, request);
    }

    pub(super) fn delete(&mut self) {
        let stream = self.draw_stream();
        let book = &mut self.book.streams[stream];
        if book.by_seq.is_empty() || !book.exists {
            return;
        }
        let seqs: Vec<u64> = book.by_seq.keys().copied().collect();
        let seq = *self.world.chance.pick(&seqs);
        book.deletions.insert(seq);
        let asked = Asked::Delete { stream, epoch: book.epoch, seq };
        let no_erase = self.world.chance.one_in(2);
        let request = ApiRequest::MessageDelete { stream: book.name.clone(), seq, no_erase };
        self.ask_about(asked, request);
    }

    /// Requeues or drops some dead letters.
    pub(super) fn exhume(&mut self) -> Result<(), Halt> {
        let stream = self.draw_stream();
        self.list_letters(stream)?;
        let book = &mut self.book.streams[stream];
        let letters: Vec<u64> = book.letters.keys().copied().collect();
        if letters.is_empty() || !book.exists {
            return Ok(());
        }
        let first = self.world.chance.index(letters.len());
        let letters: Vec<u64> = letters.into_iter().skip(first).take(3).collect();
        let requeue = self.world.chance.one_in(2);
        for number in &letters {
            let Some(letter) = book.letters.get_mut(number) else { continue };
            letter.may_go = true;
            book.exhumed.insert(*number);
            book.buried.insert((letter.consumer.clone(), letter.stream_seq));
            let id = book.by_seq.get(&letter.stream_seq);
            if requeue && let Some(sent) = id.and_then(|id| self.book.sent.get_mut(id)) {
                sent.requeues += 1;
            }
        }
        let name = book.name.clone();
        let asked = Asked::Exhume { stream, epoch: book.epoch, letters: letters.clone() };
        let options = DeadOptions { sequences: letters, ..DeadOptions::default() };
        let request = if requeue {
            ApiRequest::DeadRequeue { stream: name, options }
        } else {
            ApiRequest::DeadDrop { stream: name, options }
        };
        self.ask_about(asked, request);
        Ok(())
    }
}
