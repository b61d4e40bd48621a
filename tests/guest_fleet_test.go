package tests

import (
	"os"
	"sync/atomic"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// Two guests under one daemon, one added while it runs, one taken away: the first
// transfers all the while and does not lose a byte.
func TestGuestsOfAFleet(t *testing.T) {
	t.Parallel()
	f := vm.StartFleet(t, "first", "second")
	first, second := uml.on(t, f.Of("first")), uml.on(t, f.Of("second"))
	both := []script.Step{{Do: script.Duplex, Bytes: 4 * mib, Seed: 21}}
	port := first.serve(t, both...)
	var stop atomic.Bool
	transfers := background(func() (reports []script.Report) {
		for len(reports) == 0 || !stop.Load() {
			c, err := first.Dial(port)
			if err != nil {
				t.Error(err)
				break
			}
			reports = append(reports, script.Run(c, both, nil))
			c.Close()
		}
		return reports
	})
	second.mustWork(t)
	old := second.dial(t, second.serve(t, script.Step{Do: script.Wait, Gate: "never"}))
	flows := func(name string) float64 {
		return f.Scrape(t).Sum("vhost_user_vsock_payload_bytes_total", `vm="`+name+`"`)
	}
	before := flows("first")
	vm.Eventually(t, limit, "metrics show the transfer", func() bool { return flows("first") > before+mib })
	if got := flows("second"); got < 4*mib {
		t.Errorf("%v bytes of the second guest, want what it exchanged", got)
	}

	f.Become(t, "first", "second", "third")
	third := uml.on(t, f.Of("third"))
	third.mustWork(t)
	f.Become(t, "first", "third")
	mustEnd(t, old)
	gone := f.Of("second")
	for _, path := range []string{gone.Socket, gone.UDS} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: error %v, want it gone", path, err)
		}
	}
	if got := flows("second"); got != 0 {
		t.Errorf("metrics still show %v bytes of the second guest", got)
	}
	third.mustWork(t)

	before = flows("first")
	vm.Eventually(t, limit, "the transfer goes on", func() bool { return flows("first") > before+mib })
	stop.Store(true)
	reports := transfers()
	for i, r := range first.reports(t, port, len(reports)) {
		mustAgree(t, reports[i], r.Report)
	}
	t.Logf("%d transfers meanwhile", len(reports))
	first.mustWork(t)
}
