package muxer

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// acceptBatch is how many host programs are accepted at most before others get a turn.
const acceptBatch = 64

// acceptRetry is when a listener looks again that met a shortage of descriptors.
const acceptRetry = 50 * time.Millisecond

// listener accepts host programs, on the uds-path socket or on its twin for
// connections of messages.
type listener struct {
	m        *Muxer
	typ      csm.Type
	fd       int
	batch    int    // how many to accept at once
	turn     uint32 // in which some were accepted last, as Muxer.turn
	paused   bool
	resumeAt time.Duration
}

// Listen takes ownership of the listening socket of uds-path, also on error.
func (m *Muxer) Listen(fd int) error { return m.streams.listen(fd) }

// ListenSeqpacket is Listen for the SOCK_SEQPACKET socket <uds-path>_seqpacket.
func (m *Muxer) ListenSeqpacket(fd int) error { return m.seqpackets.listen(fd) }

func (l *listener) listen(fd int) error {
	if err := l.m.loop.Add(fd, unix.EPOLLIN, l); err != nil {
		unix.Close(fd) //nolint:errcheck
		return err
	}
	l.fd = fd
	return nil
}

// HandleEvents accepts what waits. At the limit of connections some more are
// accepted and heard out, so that they are refused by end of file; beyond that
// they wait in the backlog.
func (l *listener) HandleEvents(uint32) {
	for range l.nextBatch() {
		if l.fd < 0 || l.paused {
			return
		}
		if len(l.m.sockets) >= l.m.cfg.MaxConnections+Refusals {
			l.pause()
			return
		}
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			l.m.addClient(fd, l.typ)
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EAGAIN:
			return
		default:
			l.m.sites.accept.Warn(l.m.log, l.m.loop.Now(), "cannot accept host programs for now", os.NewSyscallError("accept4", err))
			l.m.stats.AcceptStalls.Inc()
			l.pause()
			l.resumeAt = l.m.loop.Now() + acceptRetry
			l.m.hostTimers.Push(l, l.resumeAt)
			return
		}
	}
}

// nextBatch returns how many host programs to accept: one, for to look for a second in
// vain takes as long as to accept the first, but twice as many in each turn on end.
func (l *listener) nextBatch() int {
	if l.m.turn == l.turn+1 {
		l.batch = min(2*l.batch, acceptBatch)
	} else {
		l.batch = 1
	}
	l.turn = l.m.turn
	return l.batch
}

func (l *listener) pause() {
	l.paused = true
	l.m.loop.Modify(l.fd, 0) //nolint:errcheck // it is registered
}

// resume looks for new host programs again once a socket was closed.
func (l *listener) resume() {
	if l.fd < 0 || !l.paused || len(l.m.sockets) >= l.m.cfg.MaxConnections+Refusals {
		return
	}
	l.paused, l.resumeAt = false, 0
	l.m.loop.Modify(l.fd, unix.EPOLLIN) //nolint:errcheck
}

func (l *listener) expireHost(now time.Duration) {
	if l.resumeAt != 0 && l.resumeAt <= now {
		l.resume()
	}
}

func (l *listener) expireGuest(time.Duration) {}

func (l *listener) close() {
	if l.fd >= 0 {
		l.m.loop.Remove(l.fd) //nolint:errcheck
		unix.Close(l.fd)      //nolint:errcheck
		l.fd = -1
	}
}
