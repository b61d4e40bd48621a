package soak

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

const (
	// fewestGuests is how many it takes to tell growth from warming up.
	fewestGuests = 8

	// gathering is how many more goroutines a scrape may see than another: they gather
	// what it shows. One that a guest leaves behind is seen after so many guests.
	gathering = 3

	// restLimit is when the daemon must be rid of a guest that has gone.
	restLimit = 30 * time.Second
)

// measures are what must not grow from guest to guest.
var measures = []struct {
	name      string
	of        func(reading) int
	tolerated int // bytes
	races     bool
}{
	// What lives, for there is next to no garbage.
	{"Go's heap and stacks", func(r reading) int { return r.heap + r.stacks }, 512 << 10, true},
	// The heap's pages come and go beside it, by about one MiB. Under the race detector
	// the shadow of each page that was ever used does as well, and only grows.
	{"memory", reading.memory, 2 << 20, false},
}

// watch looks at a daemon between guests.
type watch struct {
	daemon *vm.Daemon
	begun  time.Time
	before reading   // before the first guest
	rests  []reading // after each
}

// reading is what a daemon has at one time.
type reading struct {
	connections, goroutines float64
	deadlines               float64        // what has one is not forgotten yet
	holds                   map[string]int // descriptors and shared mappings, by what they are
	anon, file              int            // bytes of memory: RssAnon, RssFile
	heap, stacks            int            // bytes of objects on Go's heap, of its stacks
}

// memory leaves out RssShmem: it is guest memory, or it is in holds.
func (r reading) memory() int { return r.anon + r.file }

func (r reading) String() string {
	const mib = 1 << 20
	return fmt.Sprintf("%.1f MiB (RssAnon %.1f, RssFile %.1f; Go's heap %.2f, stacks %.2f), %d descriptors and shared mappings, %v goroutines",
		float64(r.memory())/mib, float64(r.anon)/mib, float64(r.file)/mib, float64(r.heap)/mib, float64(r.stacks)/mib, r.held(), r.goroutines)
}

func (r reading) held() int {
	n := 0
	for _, count := range r.holds {
		n += count
	}
	return n
}

func newWatch(t *testing.T, d *vm.Daemon) *watch {
	t.Helper()
	w := &watch{daemon: d, begun: time.Now()}
	w.before = w.read(t)
	t.Logf("before the first guest: %v", w.before)
	return w
}

// rest waits until the daemon holds no more than before the first guest, and reads its
// memory. Guest memory is unmapped then, so all that is left is the daemon's own.
func (w *watch) rest(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(restLimit)
	for {
		r := w.read(t)
		kept := w.kept(r)
		if len(kept) == 0 {
			t.Logf("at rest after %v: %v", time.Since(w.begun).Round(time.Second), r)
			w.rests = append(w.rests, r)
			return
		}
		if time.Now().After(deadline) {
			w.daemon.Abort()
			t.Fatalf("%v after its guest the daemon still has what it had not before the first one:\n%s",
				restLimit, strings.Join(kept, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kept lists what r has more of than there was before the first guest.
func (w *watch) kept(r reading) (list []string) {
	if r.connections > w.before.connections {
		list = append(list, fmt.Sprintf("%v connections, of %v before", r.connections, w.before.connections))
	}
	if r.goroutines > w.before.goroutines+gathering {
		list = append(list, fmt.Sprintf("%v goroutines, of %v before", r.goroutines, w.before.goroutines))
	}
	if r.deadlines > w.before.deadlines {
		list = append(list, fmt.Sprintf("%v deadlines, of %v before", r.deadlines, w.before.deadlines))
	}
	for _, what := range slices.Sorted(maps.Keys(r.holds)) {
		if n, before := r.holds[what], w.before.holds[what]; n > before {
			list = append(list, fmt.Sprintf("%d %s, of %d before", n, what, before))
		}
	}
	return list
}

// mustBeFlat compares what there is after the first guests with what is after the last
// ones. The very first warm the daemon up; medians pass over what happens once.
func (w *watch) mustBeFlat(t *testing.T) {
	t.Helper()
	n := len(w.rests)
	part := n / 4
	t.Logf("%d guests\n%v", n, w.daemon.Scrape(t))
	for _, m := range measures {
		if *races && !m.races {
			continue
		}
		early, late := median(w.rests[part:2*part], m.of), median(w.rests[n-part:], m.of)
		t.Logf("%s: %d KiB after guests %d..%d, %d after the last %d of %d", m.name, early>>10, part, 2*part-1, late>>10, part, n)
		if late-early > m.tolerated {
			t.Errorf("%s grew by %d KiB; %d are tolerated", m.name, (late-early)>>10, m.tolerated>>10)
		}
	}
}

func median(readings []reading, of func(reading) int) int {
	var values []int
	for _, r := range readings {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// read scrapes first: the connection for it is then there in every reading.
func (w *watch) read(t *testing.T) reading {
	t.Helper()
	metrics := w.daemon.Scrape(t)
	r := reading{
		connections: metrics.Sum("vhost_user_vsock_connections"),
		goroutines:  metrics["go_goroutines"],
		deadlines:   metrics.Sum("vhost_user_vsock_killq_depth"),
		heap:        int(metrics["go_memstats_heap_alloc_bytes"]),
		stacks:      int(metrics["go_memstats_stack_inuse_bytes"]),
		holds:       map[string]int{},
	}
	dir := fmt.Sprintf("/proc/%d", w.daemon.PID())
	r.addDescriptors(t, filepath.Join(dir, "fd"))
	r.addSharedMappings(t, filepath.Join(dir, "maps"))
	r.anon = statusBytes(t, filepath.Join(dir, "status"), "RssAnon:")
	r.file = statusBytes(t, filepath.Join(dir, "status"), "RssFile:")
	return r
}

func (r reading) addDescriptors(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		kind, _, _ := strings.Cut(target, ":[") // socket:[inode]
		r.holds["descriptors of "+kind]++
	}
}

// addSharedMappings adds what a frontend shares: guest memory above all.
func (r reading) addSharedMappings(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		// address perms offset device inode path
		if f := strings.Fields(line); strings.HasSuffix(f[1], "s") {
			r.holds["shared mappings of "+strings.Join(f[5:], " ")]++
		}
	}
}

// statusBytes reads a line of /proc/PID/status that is in kB.
func statusBytes(t *testing.T, path, name string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == name {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s in %s", name, path)
	return 0
}
