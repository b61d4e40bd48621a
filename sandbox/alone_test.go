package sandbox_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

const (
	// aloneAs names the test whose body this process is for.
	aloneAs = "VHOST_USER_VSOCK_TEST_ALONE"
	// aloneLimit bounds the life of such a process; the machine may be busy.
	aloneLimit = time.Minute
	// nobody is a user and group without privileges.
	nobody = 65534
)

// The directories in the working directory of such a process, which may write
// to all of them. Each has a file.
const (
	socketsDir = "sockets"
	filesDir   = "files"
	writtenDir = "written"
	otherDir   = "other"
	fileName   = "file"
)

// wholeABI is the version of Landlock that a whole sandbox takes.
const wholeABI = 6

// landlockABI is the kernel's version of Landlock, 0 if it has none. From
// inside it cannot be asked for.
var landlockABI = func() int {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return abi
}()

// needLandlock skips a test that the kernel is too old for.
func needLandlock(t *testing.T, abi int) {
	t.Helper()
	if landlockABI < abi {
		t.Skipf("Landlock has ABI %d here; this is of ABI %d", landlockABI, abi)
	}
}

// alone runs body in processes of its own, for nobody comes back out of a
// sandbox: as the user who runs the tests and, if that is root, as nobody.
func alone(t *testing.T, body func(t *testing.T)) {
	if os.Getenv(aloneAs) == t.Name() {
		body(t)
		return
	}
	users := map[string]*syscall.Credential{"as we are": nil}
	if os.Getuid() == 0 {
		users["as nobody"] = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	for name, user := range users {
		test := t.Name()
		t.Run(name, func(t *testing.T) { runAlone(t, test, user) })
	}
}

// runAlone runs a test once more, in another process.
func runAlone(t *testing.T, test string, user *syscall.Credential) {
	// The file of this very process: the path to it may be closed to nobody.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe",
		"-test.run", "^"+test+"$", "-test.v", "-test.timeout", aloneLimit.String())
	// The race detector would sleep for a second at the exit.
	cmd.Env = append(os.Environ(), aloneAs+"="+test, "GORACE=atexit_sleep_ms=0")
	cmd.Dir = newPlace(t, user)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+test+" ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// newPlace returns a new working directory that belongs to user. It is not
// t.TempDir, which others cannot reach.
func newPlace(t *testing.T, user *syscall.Credential) string {
	root, err := os.MkdirTemp("", "sandbox")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	made := []string{root}
	for _, dir := range []string{socketsDir, filesDir, writtenDir, otherDir} {
		dir = root + "/" + dir
		file := dir + "/" + fileName
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		made = append(made, dir, file)
	}
	for _, path := range made {
		if user == nil {
			break
		}
		if err := os.Chown(path, int(user.Uid), int(user.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
