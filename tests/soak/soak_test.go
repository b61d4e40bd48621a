package soak

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

var (
	duration = flag.Duration("soak", 90*time.Second, "how long new guests come; the last one may take longer")
	races    = flag.Bool("races", false, "run the daemon under the race detector")
)

// limit bounds each single wait; a guest on a busy machine is slow.
const limit = 2 * time.Minute

// machines are the daemons that guests come to, all at the same time, with their flags.
var machines = []struct {
	name  string
	flags []string
}{
	{"split rings", nil},
	{"packed rings, in-band notifications", []string{"--packed", "--inband-notifications"}},
}

func TestMain(m *testing.M) {
	if uds := os.Getenv(programUDS); uds != "" {
		hostProgram(uds)
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// TestSoak has guests live on one daemon, one after the other. Each transfers with host
// programs, some of which crash, and ends under load. Whenever one has gone the daemon
// must hold nothing of it, and its memory must not grow with their number.
func TestSoak(t *testing.T) {
	end := time.Now().Add(*duration)
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			soak(t, startDaemon(t, m.flags), end)
		})
	}
}

// thrifty has Go collect garbage at once: what is left of it does not pass for growth.
const thrifty = `GOGC=1 exec "$@"`

func startDaemon(t *testing.T, flags []string) *vm.Daemon {
	t.Helper()
	start := vm.StartDaemonBy
	if *races {
		start = vm.StartRaceDaemonBy
	}
	d := start(t, thrifty, flags...)
	d.AwaitReady(t)
	return d
}

func soak(t *testing.T, d *vm.Daemon, end time.Time) {
	w := newWatch(t, d)
	for n := 0; n < fewestGuests || time.Now().Before(end); n++ {
		ended := t.Run(fmt.Sprintf("guest %d", n), func(t *testing.T) {
			live(t, d, n)
			w.rest(t)
		})
		if !ended {
			return
		}
	}
	w.mustBeFlat(t)
}
