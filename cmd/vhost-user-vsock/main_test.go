package main

import (
	"os"
	"testing"
	"time"
)

// asDaemon makes the test binary be the program, so that the tests of whole
// processes need no build of their own.
const asDaemon = "VHOST_USER_VSOCK_TEST_AS_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		if os.Getenv(withoutLandlock) != "" {
			if err := forbidLandlock(); err != nil {
				panic(err)
			}
		}
		main()
	}
	os.Exit(m.Run())
}

const testLimit = 10 * time.Second

// inTempDir makes a fresh directory the working directory and returns it.
func inTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	return dir
}

// waitFor polls until a condition holds.
func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(testLimit); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in time")
		}
	}
}
