package vhostuser

import (
	"cmp"
	"errors"
	"io"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/ratelog"
)

// Config is what a Server needs. Loop and Device are required.
type Config struct {
	Loop   *eventloop.Loop
	Device Device
	Log    logrus.FieldLogger // nil: nothing is logged
	Stats  *Stats             // nil: nobody reads them
	// QueueCount is how many rings the device has, at most MaxQueues; 0 means 3.
	QueueCount int
	// InBand offers VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS.
	InBand bool
	// OnSessionEnd, if not nil, is called when a session has ended other than by
	// Close; err is nil when the frontend ended it in good order.
	OnSessionEnd func(err error)
}

// Server takes the connections of frontends and holds one session at a time,
// one after another. It is the loop's Worker and passes that on to the device.
//
// All methods belong to the loop's goroutine; before and after Loop.Run, to the
// goroutine that calls Run.
type Server struct {
	loop         *eventloop.Loop
	device       Device
	log          logrus.FieldLogger
	stats        *Stats
	queues       int
	protocol     ProtocolFeatures // offered
	onSessionEnd func(error)

	listener   *listener // nil without Listen
	candidates []*candidate
	session    *session // nil: none
	closed     bool

	patrolled time.Duration // when untended rings were looked at last
	limits    limits
}

// limits has each place that a peer can make log.
type limits struct {
	accept, candidates, started, ended, refused, masked, config, broken, lost, transfer ratelog.Site
}

// NewServer returns a server that serves nobody yet. It does not become the
// loop's worker by itself: call cfg.Loop.SetWorker.
func NewServer(cfg Config) *Server {
	s := &Server{
		loop:         cfg.Loop,
		device:       cfg.Device,
		log:          cfg.Log,
		stats:        cfg.Stats,
		queues:       cfg.QueueCount,
		protocol:     knownProtocol,
		onSessionEnd: cfg.OnSessionEnd,
	}
	if s.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		s.log = silent
	}
	if s.stats == nil {
		s.stats = new(Stats)
	}
	if s.queues == 0 {
		s.queues = 3
	}
	if !cfg.InBand {
		s.protocol &^= ProtocolInBandNotifications
	}
	if s.onSessionEnd == nil {
		s.onSessionEnd = func(error) {}
	}
	return s
}

// Listen accepts frontends from the listening socket fd, whose ownership it
// takes, also on error.
func (s *Server) Listen(fd int) error {
	l, err := newListener(s, fd)
	if err != nil {
		return err
	}
	s.listener = l
	return nil
}

// errBusy says that there is a session already.
var errBusy = errors.New("another frontend has the device")

// Serve makes the connected socket fd, whose ownership it takes, also on error,
// the session.
func (s *Server) Serve(fd int) error {
	unix.CloseOnExec(fd)
	c := newConn(fd)
	if s.session != nil {
		return multierror.Append(errBusy, c.close()).ErrorOrNil()
	}
	return s.begin(c)
}

// Close ends the session and turns everyone else away, for good. The socket's
// name, if it has one, is the caller's to remove. Closing twice is harmless.
func (s *Server) Close() error {
	// Rings are served to their end even when the loop does not run any more.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	s.closed = true
	var result *multierror.Error
	if s.listener != nil {
		result = multierror.Append(result, s.listener.close())
		s.listener = nil
	}
	for len(s.candidates) > 0 {
		s.dismiss(s.candidates[0])
	}
	if s.session != nil {
		s.end(errShutdown)
	}
	return result.ErrorOrNil()
}

// ConfigChanged tells the frontend that the device's config space is another
// one, which it then asks for (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG). Where there
// is no session, or none that can be told, whoever asks next learns it.
func (s *Server) ConfigChanged() {
	if s.session != nil {
		s.session.backend.configChanged()
	}
}

// begin makes a connection, whose ownership it takes, also on error, the session.
// Precondition: there is none.
func (s *Server) begin(c *conn) error {
	log := s.log.WithField("session", s.stats.SessionsStarted.Load()+1)
	x := newSession(s, c, log)
	if err := s.loop.Add(c.fd, x.interest, x); err != nil {
		return multierror.Append(err, x.close()).ErrorOrNil()
	}
	s.session = x
	s.stats.SessionsStarted.Inc()
	s.stats.Attached.Set(1)
	if log, ok := s.limits.started.Entry(log, s.loop.Now()); ok {
		log.Info("session begins")
	}
	s.device.Attach()
	return nil
}

// end ends the session: rings stop, the device lets go, and everything the
// frontend passed is given back. Then it is the next one's turn.
func (s *Server) end(cause error) {
	x := s.session
	teardown := multierror.Append(nil,
		s.loop.Remove(x.conn.fd),
		x.stop(),
		s.guard(func() error { s.device.Detach(); return nil }),
		x.close(),
	).ErrorOrNil()
	s.session = nil
	if errors.Is(cause, io.EOF) {
		cause = nil
	}
	cause = cmp.Or(cause, teardown)
	s.ended(x, cause)
	if s.closed {
		return
	}
	s.loop.Do(s.promote) // from the loop, for this may be deep inside a session
	s.onSessionEnd(cause)
}

// ended counts and logs the end of a session.
func (s *Server) ended(x *session, cause error) {
	reason := endReason(cause)
	s.stats.SessionsEnded[reason].Inc()
	s.stats.Attached.Set(0)
	log, ok := s.limits.ended.Entry(x.log, s.loop.Now())
	if !ok {
		return
	}
	log = log.WithField("reason", reason.String())
	if reason == EndClosed || reason == EndShutdown {
		log.Info("session ended")
		return
	}
	log.WithError(cause).Warn("session ended")
}

func (s *Server) queueStats(index int) *QueueStats { return &s.stats.Queues[index] }
