package vhostuser

import (
	"time"

	"github.com/sirupsen/logrus"
)

// A site logs at most linesPerWindow lines in each window.
const (
	logWindow      = 10 * time.Second
	linesPerWindow = 10
)

// limiter keeps one place in the code from filling the log at a peer's will.
type limiter struct {
	start   time.Duration // of the current window
	lines   int           // logged in it
	dropped uint64        // since the last line
}

// entry returns what to log with, or false when there were enough lines. The
// first line after a gap says how many are missing.
func (l *limiter) entry(log logrus.FieldLogger, now time.Duration) (logrus.FieldLogger, bool) {
	if now-l.start >= logWindow {
		l.start, l.lines = now, 0
	}
	if l.lines == linesPerWindow {
		l.dropped++
		return nil, false
	}
	l.lines++
	if l.dropped > 0 {
		log = log.WithField("suppressed", l.dropped)
		l.dropped = 0
	}
	return log, true
}
