package daemon

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// Of a VM of the file and one that was added, neither gets the other's trace.
func TestTracesOfTheFileAndOfTheControlInterface(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	d, signals, result := filedBesideControl(t, fileA)
	c := newClient(t)
	logged := logtest.NewLocal(d.log.Logger)
	d.log.SetLevel(logrus.InfoLevel)
	// file is a file of the VM a, and of b, which is new to it.
	file := func(trace string) string {
		return strings.Replace(traced(fileA, in(trace)), "}", ", max-buffered: 1MiB}", 1) + "," + fileB
	}
	added := control.Keys(fmt.Sprintf(`{"name":"c","socket":"sc","uds-path":"uc","trace-packets":%q}`, in("t")))
	if _, err := c.Add(t.Context(), added); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		trace string
		ok    bool
	}{
		{"t", false}, {"t.old", false}, {"t2", true}, {"t", false}, {"t2", true}, {"t2.old", true},
	} {
		before, inForce := states(d), d.fleet.named("a").cfg
		refused := d.stats.refused.Load()
		logged.Reset()
		writeVMs(t, d.cfg.File, file(tt.trace))
		d.reload()
		now := d.fleet.named("a").cfg
		if tt.ok {
			if d.stats.refused.Load() != refused || now.Trace != in(tt.trace) || now.MaxBuffered != 1<<20 {
				t.Errorf("%s: refused, or not as the file says: %+v", tt.trace, now)
			}
			continue
		}
		if d.stats.refused.Load() != refused+1 || states(d) != before || now != inForce {
			t.Errorf("%s: not refused, or something changed: VMs %s, %+v", tt.trace, states(d), now)
		}
		want := fmt.Sprintf(`VM a: trace-packets %q: another VM has it: VM "c" records in %s`, in(tt.trace), in("t"))
		if line := logged.LastEntry(); line == nil || line.Message != "configuration stays as it is" || !strings.Contains(fmt.Sprint(line.Data["error"]), want) {
			t.Errorf("%s: the log ends with %+v", tt.trace, line)
		}
	}

	for _, trace := range []string{"t2.old", "t2.old.old", "t2"} { // the file's, and what would become of one or the other
		_, err := c.Add(t.Context(), control.Keys(fmt.Sprintf(`{"name":"d","socket":"sd","uds-path":"ud","trace-packets":%q}`, in(trace))))
		expectStatus(t, err, http.StatusConflict, `VM "a" records in `+in("t2.old"))
	}
	if err := c.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	d.reloadVMs(t, file("t")) // nobody has it any more
	if a := d.fleet.named("a"); a.cfg.Trace != in("t") {
		t.Errorf("it records in %s", a.cfg.Trace)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	if _, err := os.Stat(in("t")); err != nil {
		t.Error(err)
	}
}
