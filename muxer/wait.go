package muxer

import (
	"container/list"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// guestRetry is when a guest is asked again that has not accepted.
const guestRetry = 100 * time.Millisecond

// portName is what a program of the guest listens on.
type portName struct {
	guest uint32
	typ   csm.Type
}

// portQueue holds the host programs that wait for the guest to listen on one of
// its ports, oldest first. While it refuses, only the oldest asks, so thousands
// cost no more than one. Each that is accepted lets two more ask: a guest whose
// backlog is full is not asked by all of them either.
type portQueue struct {
	m      *Muxer
	name   portName
	held   list.List     // of *conn, those that do not ask
	asking int           // those that do
	answer Handshake     // what the last REQUEST came to
	nextAt time.Duration // when to ask again, by the loop's clock, or 0
}

// SetWaitForGuest changes how long a CONNECT that comes from now on waits for the
// guest to accept it. Without a wait it has one chance.
func (m *Muxer) SetWaitForGuest(d time.Duration) { m.cfg.WaitForGuest = d }

// beginWait has a host program wait for the guest, in real time.
func (m *Muxer) beginWait(c *conn) {
	c.waitUntil = m.loop.Now() + m.cfg.WaitForGuest
	m.stats.GuestWaits.Add(1)
	m.afterHost(c, m.cfg.WaitForGuest)
}

// endWait notes that a host program waits no longer.
func (m *Muxer) endWait(c *conn) {
	if c.waitUntil == 0 {
		return
	}
	c.waitUntil = 0
	m.stats.GuestWaits.Add(-1)
	if c.port != nil {
		c.port.leave(c)
	}
}

// queue has a host program wait its turn to ask a guest that is up.
func (m *Muxer) queue(c *conn) {
	name := portName{c.key.guest, c.typ}
	q := m.calls[name]
	if q == nil {
		q = &portQueue{m: m, name: name, answer: HandshakeSilent}
		m.calls[name] = q
	}
	c.port, c.place = q, q.held.PushBack(c)
	if q.asking == 0 && q.nextAt == 0 {
		q.ask(1)
	}
}

// turnedAway follows up on a REQUEST that came to nothing: the host program
// waits on if it may, else the handshake is over.
func (m *Muxer) turnedAway(c *conn, result Handshake) {
	switch {
	case c.fd < 0: // it left, which was counted
	case c.waitUntil > m.loop.Now():
		m.hold(c, result)
	default:
		m.stats.Handshakes[result].Inc()
	}
}

// hold makes a connection that the guest did not accept wait again. It asks from
// another port the next time, for an answer to this REQUEST may yet come.
func (m *Muxer) hold(c *conn, result Handshake) {
	if c.OwesRST() {
		m.pushReset(reset{key: c.key, cid: csm.HostCID, typ: c.typ}, c.reason)
	}
	c.asked, c.guestAt, c.reason = false, 0, ResetClosed
	c.port.answer = result
	m.demote(c)
}

// refusal returns how a handshake ends when the host program's time is over.
func (c *conn) refusal() Handshake {
	switch {
	case c.port != nil:
		return c.port.answer
	case c.stage == stageWaiting:
		return HandshakeNoGuest
	}
	return HandshakeSilent
}

// ask has the n oldest ask the guest.
func (q *portQueue) ask(n int) {
	for n > 0 && q.held.Len() > 0 {
		c := q.held.Remove(q.held.Front()).(*conn)
		c.place = nil
		q.asking++
		if q.m.ask(c) {
			n--
		}
	}
}

// takeBack puts one that has asked in vain among those that wait, by its age.
func (q *portQueue) takeBack(c *conn) {
	younger := q.held.Front()
	for younger != nil && younger.Value.(*conn).waitUntil < c.waitUntil {
		younger = younger.Next()
	}
	if younger == nil {
		c.place = q.held.PushBack(c)
	} else {
		c.place = q.held.InsertBefore(c, younger)
	}
	q.asking--
	q.settle()
}

// leave takes out one that waits no longer.
func (q *portQueue) leave(c *conn) {
	if c.place != nil {
		q.held.Remove(c.place)
	} else {
		q.asking--
	}
	c.port, c.place = nil, nil
	q.settle()
}

// settle makes the next one ask after a while, unless one does or none is left.
func (q *portQueue) settle() {
	switch {
	case q.asking > 0:
	case q.held.Len() == 0:
		delete(q.m.calls, q.name)
	case q.nextAt == 0:
		q.nextAt = q.m.loop.Now() + guestRetry
		q.m.hostTimers.Push(q, q.nextAt)
	}
}

// expireHost asks again. Where there is no driver to ask, all wait for one.
func (q *portQueue) expireHost(now time.Duration) {
	if q.m.calls[q.name] != q || q.nextAt == 0 || q.nextAt > now {
		return
	}
	q.nextAt = 0
	switch {
	case q.asking > 0:
	case !q.m.running() || q.m.lost.holds:
		q.dissolve()
	default:
		q.m.stats.GuestRetries.Inc()
		q.ask(1)
	}
}

func (q *portQueue) expireGuest(time.Duration) {}

// dissolve has all wait for a driver.
func (q *portQueue) dissolve() {
	delete(q.m.calls, q.name)
	for e := q.held.Front(); e != nil; e = e.Next() {
		c := e.Value.(*conn)
		c.port, c.place = nil, nil
		q.m.wait(c)
	}
}
