package muxer

import "time"

// guestClock is the loop's clock without the time in which the guest's rings
// stood still. A paused guest cannot answer, so what it owes does not grow old.
type guestClock struct {
	skipped time.Duration // time that did not pass for the guest
	stopped bool
	at      time.Duration // reading at which it stopped
}

func (c *guestClock) stop(now time.Duration) {
	if !c.stopped {
		c.stopped, c.at = true, c.read(now)
	}
}

func (c *guestClock) start(now time.Duration) {
	if c.stopped {
		c.stopped, c.skipped = false, now-c.at
	}
}

// read returns the guest's time at the loop's reading now.
func (c *guestClock) read(now time.Duration) time.Duration {
	if c.stopped {
		return c.at
	}
	return now - c.skipped
}

// loopTime returns when the loop's clock will show what is t for the guest;
// false while the guest's clock stands still.
func (c *guestClock) loopTime(t time.Duration) (time.Duration, bool) {
	return t + c.skipped, !c.stopped
}
