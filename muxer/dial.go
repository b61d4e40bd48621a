package muxer

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

const (
	// dialTimeout is how long a REQUEST waits for room in a host program's
	// backlog; the guest's own patience ends after 2 s.
	dialTimeout = 1500 * time.Millisecond
	// A full backlog has no event to wait for, so it is probed: soon at first,
	// then ever more rarely.
	minProbe = time.Millisecond
	maxProbe = 50 * time.Millisecond
)

// dialQueue holds the REQUESTs that wait for room in one listener's backlog,
// oldest first. Only the oldest probes, so thousands cost no more than one.
type dialQueue struct {
	m        *Muxer
	path     string
	conns    []*conn
	gone     int // of conns, those that the guest has given up
	interval time.Duration
	nextAt   time.Duration // by the guest's clock
}

// request acts on a guest's REQUEST for a tuple that is free.
func (m *Muxer) request(h *csm.Header, k key) {
	if reason, ok := m.admit(h); !ok {
		m.refuseRequest(resetFor(h), reason)
		return
	}
	path := m.cfg.UDSPath + "_" + strconv.FormatUint(uint64(k.host), 10)
	if m.cfg.OwnSocket(path) {
		m.refuseRequest(resetFor(h), ResetOwnSocket)
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, socketType(h.Type)|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		m.sites.dial.Warn(m.log, m.loop.Now(), "cannot make a host socket for the guest", os.NewSyscallError("socket", err))
		m.refuseRequest(resetFor(h), ResetShortage)
		return
	}
	c := m.newConn(fd, h.Type)
	c.key = k
	c.Conn = csm.NewGuestInitiated(h, m.window(c.typ))
	c.requested()
	m.sockets[c] = struct{}{}
	m.insert(c)
	m.dial(c, path)
}

// admit decides whether a guest may open one more connection.
func (m *Muxer) admit(h *csm.Header) (ResetReason, bool) {
	switch {
	case m.noStreams && h.Type == csm.TypeStream:
		return ResetType, false
	case m.ending:
		return ResetShutdown, false
	case m.draining:
		return ResetDraining, false
	case len(m.sockets) >= m.cfg.MaxConnections:
		return ResetLimit, false
	}
	return 0, true
}

// dial connects the host socket, or makes the connection wait its turn.
func (m *Muxer) dial(c *conn, path string) {
	if q := m.dials[path]; q != nil {
		m.waitForBacklog(c, q)
		return
	}
	switch err := connect(c.fd, path); err {
	case nil:
		m.connected(c)
	case unix.EAGAIN:
		q := &dialQueue{m: m, path: path, interval: minProbe}
		m.dials[path] = q
		m.waitForBacklog(c, q)
		q.probeLater()
	default:
		m.dialFailed(c, path, err)
	}
}

func connect(fd int, path string) error {
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err != unix.EINTR {
			return err
		}
	}
}

func (m *Muxer) waitForBacklog(c *conn, q *dialQueue) {
	c.stage, c.dial = stageDialing, q
	q.conns = append(q.conns, c)
	m.stats.Dials.Add(1)
	m.afterGuest(c, dialTimeout)
}

func (m *Muxer) connected(c *conn) {
	c.stage, c.guestAt = stageOpen, 0
	c.dial = nil
	if err := m.loop.Add(c.fd, watchIn, c); err != nil {
		m.sites.dial.Warn(m.log, m.loop.Now(), "cannot watch a host socket", err)
		m.kill(c, ResetShortage)
		return
	}
	if m.lost.holds {
		return // release answers
	}
	m.answer(c)
}

// answer accepts a guest's REQUEST.
func (m *Muxer) answer(c *conn) {
	c.HostConnected()
	m.settle(c)
}

// dialFailed answers a REQUEST by RST at once: a guest that hears nothing waits
// for two seconds.
func (m *Muxer) dialFailed(c *conn, path string, err error) {
	reason := ResetHost
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EPROTOTYPE),
		errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOTSOCK):
		reason = ResetRefused
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		reason = ResetDenied
		if log, ok := m.sites.denied.Entry(m.log, m.loop.Now()); ok {
			log.WithError(os.NewSyscallError("connect", err)).WithField("path", path).
				Warn("the guest may not reach a host program")
		}
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		reason = ResetShortage
	}
	m.kill(c, reason)
}

func (q *dialQueue) probeLater() {
	q.nextAt = q.m.guestNow() + q.interval
	q.interval = min(2*q.interval, maxProbe)
	q.m.guestTimers.Push(q, q.nextAt)
}

func (q *dialQueue) expireHost(time.Duration) {}

// expireGuest probes with the oldest REQUEST; room for one may be room for more.
func (q *dialQueue) expireGuest(now time.Duration) {
	if q.m.dials[q.path] != q || q.nextAt > now {
		return
	}
	for {
		c := q.oldest()
		if c == nil {
			delete(q.m.dials, q.path)
			return
		}
		err := connect(c.fd, q.path)
		if err == unix.EAGAIN {
			q.probeLater()
			return
		}
		q.pop()
		c.dial = nil
		if err != nil {
			q.m.dialFailed(c, q.path, err)
			continue
		}
		q.interval = minProbe
		q.m.connected(c)
	}
}

// oldest returns the oldest REQUEST that is still wanted, or nil.
func (q *dialQueue) oldest() *conn {
	for len(q.conns) > 0 {
		if c := q.conns[0]; c.dial == q {
			return c
		}
		q.pop()
	}
	return nil
}

// pop takes out the oldest REQUEST.
func (q *dialQueue) pop() {
	if q.conns[0].dial == q {
		q.m.stats.Dials.Add(-1)
	} else {
		q.gone--
	}
	q.conns[0] = nil
	q.conns = q.conns[1:]
}

// giveUp notes that a REQUEST is wanted no more. A guest may repeat and withdraw
// one without end, so those that are gone may not outnumber those that wait.
func (q *dialQueue) giveUp(c *conn) {
	c.dial = nil
	q.m.stats.Dials.Add(-1)
	if q.gone++; q.gone > len(q.conns)/2 {
		q.conns = slices.DeleteFunc(q.conns, func(c *conn) bool { return c.dial == nil })
		q.gone = 0
	}
}
