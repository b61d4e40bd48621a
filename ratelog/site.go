// Package ratelog keeps log lines that a peer can provoke at a bounded rate.
package ratelog

import (
	"time"

	"github.com/sirupsen/logrus"
)

// A site logs at most linesPerWindow lines in each window.
const (
	window         = 10 * time.Second
	linesPerWindow = 10
)

// Site is one place in the code that logs what a peer did. Limits are per place,
// never per value that a peer chooses, so there are as many as the code has. The
// zero Site is ready. It is confined to one goroutine.
type Site struct {
	start   time.Duration // of the current window
	lines   int           // logged in it
	dropped uint64        // since the last line
}

// Entry returns what to log with at the reading now of the caller's clock, or
// false when there were enough lines. The first line after a gap carries the
// field suppressed, the number of lines that are missing.
func (s *Site) Entry(log logrus.FieldLogger, now time.Duration) (logrus.FieldLogger, bool) {
	if now-s.start >= window {
		s.start, s.lines = now, 0
	}
	if s.lines == linesPerWindow {
		s.dropped++
		return nil, false
	}
	s.lines++
	if s.dropped > 0 {
		log = log.WithField("suppressed", s.dropped)
		s.dropped = 0
	}
	return log, true
}

// Warn logs that a peer misbehaved or the host is short of something.
func (s *Site) Warn(log logrus.FieldLogger, now time.Duration, message string, err error) {
	if log, ok := s.Entry(log, now); ok {
		log.WithError(err).Warn(message)
	}
}
