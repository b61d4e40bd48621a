package muxer

import (
	"iter"
	"time"
)

// Deadlines are two: hostAt runs by the loop's clock and bounds what a host
// program has to do or has to wait for; guestAt runs by the guest's clock and
// bounds what the guest has to answer. A queue may hold deadlines that were
// disarmed or moved since: expire looks again.

// afterHost arms the conn's deadline by the loop's clock.
func (m *Muxer) afterHost(c *conn, d time.Duration) {
	c.hostAt = m.loop.Now() + d
	m.hostTimers.Push(c, c.hostAt)
}

// afterGuest arms the conn's deadline by the guest's clock.
func (m *Muxer) afterGuest(c *conn, d time.Duration) {
	c.guestAt = m.guestNow() + d
	m.guestTimers.Push(c, c.guestAt)
}

func (m *Muxer) guestNow() time.Duration { return m.clock.read(m.loop.Now()) }

// Deadline returns when Expire is due next by the loop's clock, if ever.
func (m *Muxer) Deadline() (at time.Duration, ok bool) {
	at, ok = m.hostTimers.NextDeadline()
	if held := m.txHold.at; held != 0 && (!ok || held < at) {
		at, ok = held, true
	}
	guest, armed := m.guestTimers.NextDeadline()
	if !armed {
		return at, ok
	}
	guest, runs := m.clock.loopTime(guest)
	if !runs || ok && at <= guest {
		return at, ok
	}
	return guest, true
}

// Expire handles what is overdue at the loop's reading now.
func (m *Muxer) Expire(now time.Duration) {
	m.expireHold(now)
	for {
		t, _, ok := m.hostTimers.PopExpired(now)
		if !ok {
			break
		}
		t.expireHost(now)
	}
	if m.hostTimers.NeedsRebuild(now) {
		m.stats.KillResyncs.Inc()
		m.hostTimers.Rebuild(m.hostDeadlines())
	}
	if m.clock.stopped {
		return
	}
	guestNow := m.clock.read(now)
	for {
		t, _, ok := m.guestTimers.PopExpired(guestNow)
		if !ok {
			break
		}
		t.expireGuest(guestNow)
	}
	if m.guestTimers.NeedsRebuild(guestNow) {
		m.stats.KillResyncs.Inc()
		m.guestTimers.Rebuild(m.guestDeadlines())
	}
}

func (m *Muxer) hostDeadlines() iter.Seq2[timed, time.Duration] {
	return func(yield func(timed, time.Duration) bool) {
		for c := range m.sockets {
			if c.hostAt != 0 && !yield(c, c.hostAt) {
				return
			}
		}
		for _, q := range m.calls {
			if q.nextAt != 0 && !yield(q, q.nextAt) {
				return
			}
		}
		for _, l := range []*listener{&m.streams, &m.seqpackets} {
			if l.resumeAt != 0 && !yield(l, l.resumeAt) {
				return
			}
		}
	}
}

func (m *Muxer) guestDeadlines() iter.Seq2[timed, time.Duration] {
	return func(yield func(timed, time.Duration) bool) {
		for c := range m.sockets {
			if c.guestAt != 0 && !yield(c, c.guestAt) {
				return
			}
		}
		if m.lost.at != 0 && !yield(&m.lost, m.lost.at) {
			return
		}
		for _, q := range m.dials {
			if !yield(q, q.nextAt) {
				return
			}
		}
	}
}
