package hostsock_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

func TestRegistryKnowsOurSocketsByAnyName(t *testing.T) {
	dir := t.TempDir()
	ours, other := filepath.Join(dir, "ours"), filepath.Join(dir, "other")
	listen(t, ours)
	listen(t, other)
	linkToDir := filepath.Join(dir, "dir")
	symlink(t, dir, linkToDir)
	symlink(t, "ours", filepath.Join(dir, "vm_1"))
	symlink(t, filepath.Join(linkToDir, "vm_1"), filepath.Join(dir, "vm_2"))
	symlink(t, "other", filepath.Join(dir, "vm_3"))
	symlink(t, "none", filepath.Join(dir, "vm_4"))
	hardLink := os.Link(ours, filepath.Join(dir, "vm_5")) == nil // not on every file system

	var r hostsock.Registry
	if r.Owns(ours) {
		t.Error("an empty registry owns a socket")
	}
	if err := r.Add(ours); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		want bool
	}{
		{"ours", true}, {"dir/ours", true}, {"vm_1", true}, {"vm_2", true}, {"vm_5", hardLink},
		{"other", false}, {"vm_3", false}, {"vm_4", false}, {"none", false}, {".", false},
	} {
		if got := r.Owns(filepath.Join(dir, test.name)); got != test.want {
			t.Errorf("Owns(%s) = %v, want %v", test.name, got, test.want)
		}
	}

	r.Remove(other) // never added
	if !r.Owns(ours) {
		t.Error("removing another path removed ours")
	}
	if err := os.Remove(ours); err != nil {
		t.Fatal(err)
	}
	r.Remove(ours)
	if r.Owns(filepath.Join(dir, "vm_5")) {
		t.Error("a removed socket is still owned")
	}
}

func TestRegistryAddNothing(t *testing.T) {
	var r hostsock.Registry
	if err := r.Add(filepath.Join(t.TempDir(), "none")); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("error %v, want ENOENT", err)
	}
}

func TestRegistryIsSafeForConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	steady := filepath.Join(dir, "steady")
	listen(t, steady)
	var r hostsock.Registry
	if err := r.Add(steady); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, name := range []string{"x", "y"} {
		path := filepath.Join(dir, name)
		listen(t, path)
		all.Go(func() {
			for range 500 {
				if err := r.Add(path); err != nil {
					t.Error(err)
				}
				if !r.Owns(path) || !r.Owns(steady) {
					t.Error("a socket is not owned though added")
				}
				r.Remove(path)
			}
		})
	}
	all.Wait()
}

func BenchmarkOwns(b *testing.B) {
	dir := b.TempDir()
	var r hostsock.Registry
	path := filepath.Join(dir, "vm_1024")
	leaveStale(b, path)
	b.ReportAllocs()
	for b.Loop() {
		if r.Owns(path) {
			b.Fatal("owned")
		}
	}
}

// A socket is known as soon as it has a name. One that gets none leaves what is
// known about the other one at its path.
func TestRegistryOfListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var r hostsock.Registry
	o := hostsock.Options{Mode: 0o600, UID: -1, GID: -1, Type: unix.SOCK_STREAM, Backlog: 1, Registry: &r}
	l, err := hostsock.Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !r.Owns(path) {
		t.Error("the socket is not known")
	}
	if _, err := hostsock.Listen(path, o); !errors.Is(err, hostsock.ErrInUse) {
		t.Fatalf("error %v, want ErrInUse", err)
	}
	if !r.Owns(path) {
		t.Error("the socket is not known any more")
	}
	r.Remove(path)
	if r.Owns(path) {
		t.Error("something is still known")
	}
}
