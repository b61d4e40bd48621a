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
	fewestGuests = 6

	// tolerance is how many bytes the daemon's memory may be larger at the end: Go's heap
	// comes and goes by about one MiB.
	tolerance = 2 << 20

	// racesTolerance is that under the race detector, whose shadow of each page grows.
	racesTolerance = 8 << 20

	// gathering is how many more goroutines a scrape may see than another: they gather
	// what it shows. One that a guest leaves behind is seen after so many guests.
	gathering = 3

	// restLimit is when the daemon must be rid of a guest that has gone.
	restLimit = 30 * time.Second
)

// watch looks at a daemon between guests.
type watch struct {
	daemon *vm.Daemon
	before reading   // before the first guest
	rests  []reading // after each
}

// reading is what a daemon has at one time.
type reading struct {
	connections, goroutines float64
	holds                   map[string]int // descriptors and shared mappings, by what they are
	anon, file              int            // bytes of memory: RssAnon, RssFile
	heap                    int            // of these in use by Go's heap
}

// memory leaves out RssShmem: it is guest memory, or it is in holds.
func (r reading) memory() int { return r.anon + r.file }

func (r reading) String() string {
	const mib = 1 << 20
	return fmt.Sprintf("%.1f MiB (RssAnon %.1f, RssFile %.1f; Go's heap in use %.1f), %d descriptors and shared mappings, %v goroutines",
		float64(r.memory())/mib, float64(r.anon)/mib, float64(r.file)/mib, float64(r.heap)/mib, r.held(), r.goroutines)
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
	w := &watch{daemon: d}
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
			t.Logf("at rest: %v", r)
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
	for _, what := range slices.Sorted(maps.Keys(r.holds)) {
		if n, before := r.holds[what], w.before.holds[what]; n > before {
			list = append(list, fmt.Sprintf("%d %s, of %d before", n, what, before))
		}
	}
	return list
}

// mustBeFlat compares the memory after the first guests with that after the last ones.
// The very first warm the daemon up; medians pass over what happens once.
func (w *watch) mustBeFlat(t *testing.T) {
	t.Helper()
	n := len(w.rests)
	part := n / 4
	early, late := median(w.rests[part:2*part]), median(w.rests[n-part:])
	t.Logf("%d guests\nearly: %v\nlate: %v", n, early, late)
	tolerated := tolerance
	if *races {
		tolerated = racesTolerance
	}
	if late.memory()-early.memory() <= tolerated {
		return
	}
	for i, r := range w.rests {
		t.Logf("after guest %d: %v", i, r)
	}
	t.Errorf("memory grew by %d KiB (RssAnon by %d, RssFile by %d, Go's heap in use by %d) from guests %d..%d to the last %d of %d; %d KiB are tolerated",
		(late.memory()-early.memory())>>10, (late.anon-early.anon)>>10, (late.file-early.file)>>10, (late.heap-early.heap)>>10,
		part, 2*part-1, part, n, tolerated>>10)
}

// median returns the reading with the median of the memory.
func median(readings []reading) reading {
	sorted := slices.SortedFunc(slices.Values(readings), func(a, b reading) int { return a.memory() - b.memory() })
	return sorted[len(sorted)/2]
}

// read scrapes first: the connection for it is then there in every reading.
func (w *watch) read(t *testing.T) reading {
	t.Helper()
	metrics := w.daemon.Scrape(t)
	r := reading{
		connections: metrics.Sum("vhost_user_vsock_connections"),
		goroutines:  metrics["go_goroutines"],
		heap:        int(metrics["go_memstats_heap_inuse_bytes"]),
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
