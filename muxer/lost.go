package muxer

import (
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

const (
	// frontendPatience is how long a frontend may take from starting rings to being
	// done with it. OpenVMM and crosvm start the event ring a few messages later than
	// the others. cloud-hypervisor, connecting anew, notes its new connection last of
	// all, and dies of a driver that reads its CID before, as TRANSPORT_RESET has it do.
	frontendPatience = 250 * time.Millisecond
	// resetPatience is how long a driver may take to handle a TRANSPORT_RESET. Its
	// own patience for an answer to a REQUEST ends after 2 s.
	resetPatience = time.Second
	// lostRSTs is how many RSTs for lost connections may wait at once: fewer than
	// what the tx ring waits for.
	lostRSTs = replyLimit / 2
)

// losses are the connections that ended behind a driver's back: with the session
// that carried them, or since the state was saved that the driver goes on from. A
// driver that begins anew believes in none of them. One that goes on is told.
//
//	Inherit, LoadState ─► due, and when the frontend is done:
//	    event ring ──► TRANSPORT_RESET ── next buffer ──► over
//	    none       ──► an RST for each ─────────────────► over
//
// Until then new connections wait. A driver that handles TRANSPORT_RESET resets
// all connections it has, those that it got since it was sent too.
type losses struct {
	m      *Muxer
	conns  map[key]csm.Type
	goesOn bool          // the driver that is about to come up goes on
	due    bool          // TRANSPORT_RESET is due, should the event ring come ever so late
	ready  bool          // the frontend is done: it can be sent
	byRST  bool          // it did not come in time
	holds  bool          // new connections wait
	at     time.Duration // when patience ends, by the guest's clock, or 0
}

// Inherit tells that the rings that are about to start were in use before this
// session: their driver goes on, and what connections it has are lost.
func (m *Muxer) Inherit() { m.lost.goesOn = true }

func (l *losses) add(k key, typ csm.Type) {
	if len(l.conns) < maxStateConns {
		l.conns[k] = typ
	}
}

// believed returns the connections that the driver believes in: those it has,
// those for which it is owed an RST, and those that were lost before.
func (m *Muxer) believed() map[key]csm.Type {
	all := losses{conns: make(map[key]csm.Type)}
	for k, c := range m.table {
		if !c.isUnasked() {
			all.add(k, c.typ)
		}
	}
	for range m.ready.Resets() { // once round, so that they keep their order
		item, _ := m.ready.Pop()
		m.ready.PushReset(item)
		if item.reset.cid == csm.HostCID {
			all.add(item.reset.key, item.reset.typ)
		}
	}
	for k, typ := range m.lost.conns {
		all.add(k, typ)
	}
	return all.conns
}

// tellLosses makes a TRANSPORT_RESET due.
func (m *Muxer) tellLosses() {
	m.lost.due, m.lost.byRST = true, false
	m.awaitFrontend()
}

// awaitFrontend has the reset that is due wait until the frontend is done.
func (m *Muxer) awaitFrontend() {
	m.lost.ready = false
	m.holdFor(frontendPatience)
}

// holdFor makes new connections wait: for the driver to have handled a reset, for
// the event ring, or for RSTs to be on their way.
func (m *Muxer) holdFor(d time.Duration) {
	m.lost.holds = true
	m.lost.at = m.guestNow() + d
	m.guestTimers.Push(&m.lost, m.lost.at)
}

func (l *losses) expireHost(time.Duration) {}

// expireGuest ends the patience with the frontend, or with a driver that has no
// buffer in the event ring or does not say that it handled the event.
func (l *losses) expireGuest(now time.Duration) {
	if l.at == 0 || l.at > now {
		return
	}
	l.at = 0
	switch serves := l.m.events.serves(); {
	case l.due && !serves:
		l.byRST = true
	case l.due && !l.ready:
		l.ready, l.m.events.kicked = true, true
		l.m.holdFor(resetPatience)
	default:
		l.m.release()
	}
}

// resetLost makes RSTs for lost connections due, a bounded number at a time, and
// reports whether it did.
func (m *Muxer) resetLost() (more bool) {
	l := &m.lost
	if !l.byRST {
		return false
	}
	for k, typ := range l.conns {
		if m.ready.Resets() >= lostRSTs {
			return more
		}
		delete(l.conns, k)
		m.pushReset(reset{key: k, cid: csm.HostCID, typ: typ}, ResetLost)
		more = true
	}
	l.byRST = false
	m.release() // whatever is sent from now on comes behind the last RST
	return true
}

// transportWasReset follows up on a TRANSPORT_RESET that lies before the driver.
func (m *Muxer) transportWasReset() {
	m.endForReset()
	m.lost.due, m.lost.byRST = false, false
	clear(m.lost.conns)
	former := append(m.cid.former, m.cid.active)
	m.useCID(m.cid.configured)
	m.cid.former = former
	m.holdFor(resetPatience)
}

// endForReset ends the connections that the driver resets itself when it handles
// a TRANSPORT_RESET. A REQUEST of its own that has no answer yet is none of them;
// where our RESPONSE may still be unread, only an RST behind it is sure to end
// what it opens.
func (m *Muxer) endForReset() {
	for k, c := range m.table {
		switch {
		case c.State() == csm.Accepting:
		case !c.hostInitiated:
			m.kill(c, ResetLost)
		default:
			if !c.isUnasked() {
				m.lost.add(k, c.typ)
			}
			m.forget(c)
		}
	}
}

// release ends the wait of new connections, while both rings run. What the driver
// sent before is in the tx ring by now, and is taken first.
func (m *Muxer) release() {
	m.lost.holds, m.lost.at = false, 0
	m.txWaits = true
	for _, c := range m.table {
		if c.stage == stageOpen && c.State() == csm.Accepting {
			m.answer(c)
		}
	}
	m.promoteWaiting()
}

// notLost notes that the driver speaks of a connection: the answer tells it the
// truth.
func (m *Muxer) notLost(h *csm.Header, k key) {
	if h.DstCID == csm.HostCID && m.lost.conns[k] == h.Type {
		delete(m.lost.conns, k)
	}
}
