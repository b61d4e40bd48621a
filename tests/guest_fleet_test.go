package tests

import (
	"os"
	"sync/atomic"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// traffic is transfers between the host and a guest, one after another.
type traffic struct {
	lab
	port    uint32
	stop    atomic.Bool
	reports func() []script.Report // waits for the host's
}

// keepBusy has the guest transfer until mustHaveCarried.
func (l lab) keepBusy(t *testing.T) *traffic {
	t.Helper()
	both := []script.Step{{Do: script.Duplex, Bytes: 4 * mib, Seed: 21}}
	tr := &traffic{lab: l, port: l.serve(t, both...)}
	tr.reports = background(func() (reports []script.Report) {
		for len(reports) == 0 || !tr.stop.Load() {
			c, err := l.Dial(tr.port)
			if err != nil {
				t.Error(err)
				break
			}
			reports = append(reports, script.Run(c, both, nil))
			c.Close()
		}
		return reports
	})
	return tr
}

// mustHaveCarried ends the transfers, none of which may have lost a byte.
func (tr *traffic) mustHaveCarried(t *testing.T) {
	t.Helper()
	tr.stop.Store(true)
	reports := tr.reports()
	for i, r := range tr.lab.reports(t, tr.port, len(reports)) {
		mustAgree(t, reports[i], r.Report)
	}
	t.Logf("%d transfers meanwhile", len(reports))
}

// payload returns how many bytes the guest of a VM has exchanged.
func payload(t *testing.T, f *vm.Fleet, name string) float64 {
	t.Helper()
	return f.Scrape(t).Sum("vhost_user_vsock_payload_bytes_total", `vm="`+name+`"`)
}

// mustGoOn waits until the guest of a VM has exchanged more.
func mustGoOn(t *testing.T, f *vm.Fleet, name string) {
	t.Helper()
	before := payload(t, f, name)
	vm.Eventually(t, limit, "the transfer goes on", func() bool { return payload(t, f, name) > before+mib })
}

// mustBeGone wants nothing left of a VM.
func mustBeGone(t *testing.T, f *vm.Fleet, name string) {
	t.Helper()
	gone := f.Of(name)
	for _, path := range []string{gone.Socket, gone.UDS} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: error %v, want it gone", path, err)
		}
	}
	if got := payload(t, f, name); got != 0 {
		t.Errorf("metrics still show %v bytes of %s", got, name)
	}
}

// Two guests under one daemon, one added while it runs, one taken away: the first
// transfers all the while and does not lose a byte.
func TestGuestsOfAFleet(t *testing.T) {
	t.Parallel()
	f := vm.StartFleet(t, "first", "second")
	first, second := uml.on(t, f.Of("first")), uml.on(t, f.Of("second"))
	traffic := first.keepBusy(t)
	second.mustWork(t)
	old := second.dial(t, second.serve(t, script.Step{Do: script.Wait, Gate: "never"}))
	mustGoOn(t, f, "first")
	if got := payload(t, f, "second"); got < 4*mib {
		t.Errorf("%v bytes of the second guest, want what it exchanged", got)
	}

	f.Become(t, "first", "second", "third")
	third := uml.on(t, f.Of("third"))
	third.mustWork(t)
	f.Become(t, "first", "third")
	mustEnd(t, old)
	mustBeGone(t, f, "second")
	third.mustWork(t)

	mustGoOn(t, f, "first")
	traffic.mustHaveCarried(t)
	first.mustWork(t)
}
