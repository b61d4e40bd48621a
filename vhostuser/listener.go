package vhostuser

import (
	"errors"
	"os"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"
)

const (
	// acceptsPerTurn bounds what a flood of connections costs in one turn.
	acceptsPerTurn = 16
	// acceptPause is how long nobody is accepted after that failed: for want of
	// descriptors, mostly, and the connection that waits keeps the socket ready.
	acceptPause = 100 * time.Millisecond
)

// listener accepts the frontends' connections.
type listener struct {
	server   *Server
	fd       int           // owned
	paused   bool          // not polled
	resumeAt time.Duration // by the loop's clock, when paused
}

// newListener takes ownership of the listening socket fd, also on error.
func newListener(server *Server, fd int) (*listener, error) {
	unix.CloseOnExec(fd)
	l := &listener{server: server, fd: fd}
	err := os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	if err == nil {
		err = server.loop.Add(fd, unix.EPOLLIN, l)
	}
	if err != nil {
		closeFds([]int{fd})
		return nil, err
	}
	return l, nil
}

// close closes the socket.
func (l *listener) close() error {
	var result *multierror.Error
	if !l.paused {
		result = multierror.Append(result, l.server.loop.Remove(l.fd))
	}
	err := os.NewSyscallError("close", unix.Close(l.fd))
	return multierror.Append(result, err).ErrorOrNil()
}

// HandleEvents accepts who is waiting.
func (l *listener) HandleEvents(uint32) {
	for range acceptsPerTurn {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			l.server.stats.Accepted.Inc()
			l.server.admit(fd)
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		default:
			l.pause(os.NewSyscallError("accept4", err))
			return
		}
	}
}

// pause stops polling until resumeAt.
func (l *listener) pause(cause error) {
	s := l.server
	s.stats.AcceptErrors.Inc()
	if log, ok := s.limits.accept.Entry(s.log, s.loop.Now()); ok {
		log.WithError(cause).Error("frontends cannot be accepted")
	}
	if s.loop.Remove(l.fd) == nil {
		l.paused, l.resumeAt = true, s.loop.Now()+acceptPause
	}
}

// resume polls again, or tries to a little later.
func (l *listener) resume() {
	l.resumeAt += acceptPause
	l.paused = l.server.loop.Add(l.fd, unix.EPOLLIN, l) != nil
}
