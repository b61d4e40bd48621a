package muxer

import (
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// logSite is one place whose lines a guest or a host program can provoke. It
// writes a few a minute and tells how many it left out.
type logSite struct {
	limit   *rate.Limiter
	dropped int
}

func newLogSite() logSite {
	return logSite{limit: rate.NewLimiter(rate.Every(10*time.Second), 5)}
}

func (s *logSite) warn(log logrus.FieldLogger, message string, err error) {
	if !s.limit.Allow() {
		s.dropped++
		return
	}
	if s.dropped > 0 {
		log = log.WithField("dropped", s.dropped)
		s.dropped = 0
	}
	log.WithError(err).Warn(message)
}

// logSites are the Muxer's places, one each.
type logSites struct{ accept, dial, denied, packet, host logSite }

func newLogSites() logSites {
	return logSites{newLogSite(), newLogSite(), newLogSite(), newLogSite(), newLogSite()}
}
