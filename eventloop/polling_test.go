package eventloop

import (
	"testing"
	"time"
)

// A wait that a signal ended was for no event.
func TestPollingCountsEventsInARow(t *testing.T) {
	p := polling{Poll: Poll{Limit: 50 * time.Microsecond}}
	for range soonEnough - 1 {
		p.waited(time.Microsecond, true)
	}
	if p.pays(0) {
		t.Error("it looks too early")
	}
	p.waited(time.Microsecond, false)
	p.waited(time.Microsecond, true)
	if p.pays(0) {
		t.Error("a signal is an event")
	}
	for range soonEnough - 1 {
		p.waited(time.Microsecond, true)
	}
	if !p.pays(0) {
		t.Error("it does not look")
	}
}
