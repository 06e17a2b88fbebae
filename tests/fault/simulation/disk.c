#include "tests/fault/simulation/disk.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fault/simulation/medium.h"

#define FILES 3 /* the database, its -wal, and for a moment its -journal */
#define DISKS NODES_MAX
#define SHM_REGIONS 64
#define SECTOR 512
#define GUARD_MAX 256

struct file {
	char *path;
	struct medium medium;
	unsigned readers;     /* connections with any lock on it */
	struct handle *alone; /* the connection that keeps all others out */
};

struct disk {
	struct sim *sim;
	const char *dir;
	struct file files[FILES];
	/* The index of the WAL: memory that the connections of one host share, and its locks. */
	void *shm[SHM_REGIONS];
	unsigned shm_users, shm_shared[SQLITE_SHM_NLOCK];
	bool shm_exclusive[SQLITE_SHM_NLOCK];
	bool armed, power, crashed;
	bool stuck; /* a mutant's: nothing reaches the disk any more */
	unsigned operations; /* until the crash */
	bool failing, lasting;    /* it is to refuse what it is asked: once, or from then on */
	unsigned operations_well; /* until it does */
	bool refused;             /* it did, since it was restored */
	char guard[GUARD_MAX];
	ssize_t guard_len;
};

struct handle {
	sqlite3_file base;
	struct disk *disk;
	struct file *file;
	int level;            /* of the lock on the file */
	bool uses_shm;
	bool shm_shared[SQLITE_SHM_NLOCK], shm_exclusive[SQLITE_SHM_NLOCK];
};

static struct disk *disks[DISKS];

/* Crashes */

static void guard_path(const struct disk *d, char path[4096])
{
	snprintf(path, 4096, "%s/acknowledged", d->dir);
}

void disk_lose_guard(struct disk *d)
{
	char path[4096];
	guard_path(d, path);
	unlink(path);
}

void disk_wipe(struct disk *d)
{
	disk_lose_guard(d);
	for (int i = 0; i < FILES; i++)
		medium_remove(&d->files[i].medium);
}

static void read_guard(struct disk *d)
{
	char path[4096];
	guard_path(d, path);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	d->guard_len = fd < 0 ? -1 : read(fd, d->guard, sizeof d->guard);
	if (fd >= 0)
		close(fd);
}

static void restore_guard(struct disk *d)
{
	char path[4096];
	disk_lose_guard(d);
	guard_path(d, path);
	if (d->guard_len < 0 || d->sim->mutant == MUTANT_LYING_DISK)
		return;
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, d->guard, (size_t)d->guard_len) != d->guard_len)
		sim_fail(d->sim, "the simulation cannot write %s", path);
	close(fd);
}

void disk_crash(struct disk *d, bool power)
{
	if (d->crashed)
		return;
	for (int i = 0; i < FILES; i++) {
		if (d->stuck)
			medium_forget(&d->files[i].medium);
		else
			medium_crash(&d->files[i].medium, d->sim, power);
	}
	read_guard(d);
	d->crashed = true;
	d->armed = false;
}

void disk_crash_within(struct disk *d, unsigned operations, bool power)
{
	d->armed = true;
	d->operations = operations;
	d->power = power;
}

bool disk_crashed(const struct disk *d)
{
	return d->crashed;
}

void disk_fail_within(struct disk *d, unsigned operations, bool lasting)
{
	d->failing = true;
	d->lasting = lasting;
	d->operations_well = operations;
}

void disk_mend(struct disk *d)
{
	d->failing = false;
}

bool disk_has_refused(const struct disk *d)
{
	return d->refused;
}

static void free_shm(struct disk *d)
{
	for (int i = 0; i < SHM_REGIONS; i++) {
		free(d->shm[i]);
		d->shm[i] = NULL;
	}
}

/* Nobody has anything open or locked any more. */
static void let_go(struct disk *d)
{
	for (int i = 0; i < FILES; i++) {
		d->files[i].readers = 0;
		d->files[i].alone = NULL;
	}
	free_shm(d);
	d->shm_users = 0;
	memset(d->shm_shared, 0, sizeof d->shm_shared);
	memset(d->shm_exclusive, 0, sizeof d->shm_exclusive);
}

void disk_restore(struct disk *d)
{
	for (int i = 0; i < FILES; i++)
		medium_restore(&d->files[i].medium);
	let_go(d);
	restore_guard(d);
	d->crashed = d->armed = d->stuck = d->refused = false;
}

/* Every write and sync passes here first. True: it is refused. */
static bool operation(struct disk *d)
{
	if (d->armed && d->operations-- == 0)
		disk_crash(d, d->power);
	if (!d->failing || d->operations_well > 0) {
		d->operations_well -= d->failing;
		return false;
	}
	d->failing = d->lasting;
	d->refused = true;
	return true;
}

/* SQLite's files */

static int file_read(sqlite3_file *file, void *out, int n, sqlite3_int64 offset)
{
	const struct bytes *b = &((struct handle *)file)->file->medium.now.seen;
	size_t from = (size_t)offset, want = (size_t)n;
	size_t have = from < b->len ? b->len - from : 0;
	if (have > want)
		have = want;
	if (have > 0)
		memcpy(out, b->data + from, have);
	memset((uint8_t *)out + have, 0, want - have);
	return have == want ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

/* Full, or broken; of what was to be written the first part may be there. */
static int refuse_write(struct handle *h, const void *data, size_t n, size_t offset)
{
	struct sim *s = h->disk->sim;
	if (sim_chance(s, 50))
		medium_write(&h->file->medium, offset, data, sim_dice(s, n + 1));
	return sim_chance(s, 50) ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int file_write(sqlite3_file *file, const void *data, int n, sqlite3_int64 offset)
{
	struct handle *h = (struct handle *)file;
	if (operation(h->disk))
		return refuse_write(h, data, (size_t)n, (size_t)offset);
	medium_write(&h->file->medium, (size_t)offset, data, (size_t)n);
	return SQLITE_OK;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	struct handle *h = (struct handle *)file;
	if (operation(h->disk))
		return SQLITE_IOERR_TRUNCATE;
	medium_truncate(&h->file->medium, (size_t)size);
	return SQLITE_OK;
}

/* Says that it has synced, but has not, from some time on: a crash brings back an older database, whole. */
static bool lies(struct disk *d)
{
	bool liar = d->sim->mutant == MUTANT_LYING_DISK || d->sim->mutant == MUTANT_OLD_DATABASE;
	if (liar && !d->stuck)
		d->stuck = sim_chance(d->sim, 2);
	return d->stuck;
}

static int file_sync(sqlite3_file *file, int flags)
{
	(void)flags;
	struct handle *h = (struct handle *)file;
	struct disk *d = h->disk;
	bool refused = operation(d);
	if (lies(d))
		return SQLITE_OK;
	if (refused) {
		medium_fail_sync(&h->file->medium, d->sim);
		return d->sim->mutant == MUTANT_IGNORED_ERROR ? SQLITE_OK : SQLITE_IOERR_FSYNC;
	}
	medium_sync(&h->file->medium);
	return SQLITE_OK;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
	*ret_size = (sqlite3_int64)((struct handle *)file)->file->medium.now.seen.len;
	return SQLITE_OK;
}

/* In WAL mode connections meet here only when one of them wants to be alone: to clear up when it is the last. */
static int file_lock(sqlite3_file *file, int level)
{
	struct handle *h = (struct handle *)file;
	struct file *f = h->file;
	if ((f->alone && f->alone != h) ||
	    (level == SQLITE_LOCK_EXCLUSIVE && f->readers > (h->level != SQLITE_LOCK_NONE)))
		return SQLITE_BUSY;
	if (h->level == SQLITE_LOCK_NONE && level != SQLITE_LOCK_NONE)
		f->readers++;
	if (level == SQLITE_LOCK_EXCLUSIVE)
		f->alone = h;
	h->level = level > h->level ? level : h->level;
	return SQLITE_OK;
}

static int file_unlock(sqlite3_file *file, int level)
{
	struct handle *h = (struct handle *)file;
	if (h->level != SQLITE_LOCK_NONE && level == SQLITE_LOCK_NONE)
		h->file->readers--;
	if (h->file->alone == h && level != SQLITE_LOCK_EXCLUSIVE)
		h->file->alone = NULL;
	h->level = level;
	return SQLITE_OK;
}

static int file_close(sqlite3_file *file)
{
	return file_unlock(file, SQLITE_LOCK_NONE);
}

static int file_check_reserved_lock(sqlite3_file *file, int *ret_reserved)
{
	(void)file;
	*ret_reserved = 0;
	return SQLITE_OK;
}

static int file_control(sqlite3_file *file, int op, void *arg)
{
	(void)file;
	(void)op;
	(void)arg;
	return SQLITE_NOTFOUND;
}

static int file_sector_size(sqlite3_file *file)
{
	(void)file;
	return SECTOR;
}

static int file_characteristics(sqlite3_file *file)
{
	(void)file;
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static int file_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **ret_region)
{
	struct handle *h = (struct handle *)file;
	struct disk *d = h->disk;
	d->shm_users += !h->uses_shm;
	h->uses_shm = true;
	*ret_region = NULL;
	if (region < 0 || region >= SHM_REGIONS)
		return SQLITE_IOERR_SHMMAP;
	if (!d->shm[region] && extend)
		d->shm[region] = sim_alloc((size_t)size);
	*ret_region = d->shm[region];
	return SQLITE_OK;
}

static void shm_unlock(struct handle *h, int i)
{
	if (h->shm_shared[i])
		h->disk->shm_shared[i]--;
	if (h->shm_exclusive[i])
		h->disk->shm_exclusive[i] = false;
	h->shm_shared[i] = h->shm_exclusive[i] = false;
}

/* May this connection have the lock, whatever it has itself? */
static bool shm_free(const struct handle *h, int i, bool exclusive)
{
	const struct disk *d = h->disk;
	return (!d->shm_exclusive[i] || h->shm_exclusive[i]) &&
	       (!exclusive || d->shm_shared[i] == (unsigned)h->shm_shared[i]);
}

static int file_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
	struct handle *h = (struct handle *)file;
	bool lock = flags & SQLITE_SHM_LOCK, exclusive = flags & SQLITE_SHM_EXCLUSIVE;
	for (int i = offset; i < offset + n; i++)
		if (lock && !shm_free(h, i, exclusive))
			return SQLITE_BUSY;
	for (int i = offset; i < offset + n; i++) {
		if (!lock) {
			shm_unlock(h, i);
		} else if (exclusive) {
			h->disk->shm_exclusive[i] = h->shm_exclusive[i] = true;
		} else if (!h->shm_shared[i]) {
			h->disk->shm_shared[i]++;
			h->shm_shared[i] = true;
		}
	}
	return SQLITE_OK;
}

static void file_shm_barrier(sqlite3_file *file)
{
	(void)file;
}

static int file_shm_unmap(sqlite3_file *file, int remove_it)
{
	struct handle *h = (struct handle *)file;
	struct disk *d = h->disk;
	(void)remove_it; /* it is in memory, and goes with the last connection */
	for (int i = 0; i < SQLITE_SHM_NLOCK; i++)
		shm_unlock(h, i);
	d->shm_users -= h->uses_shm;
	h->uses_shm = false;
	if (d->shm_users > 0)
		return SQLITE_OK;
	free_shm(d);
	return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
	.iVersion = 2,
	.xClose = file_close,
	.xRead = file_read,
	.xWrite = file_write,
	.xTruncate = file_truncate,
	.xSync = file_sync,
	.xFileSize = file_size,
	.xLock = file_lock,
	.xUnlock = file_unlock,
	.xCheckReservedLock = file_check_reserved_lock,
	.xFileControl = file_control,
	.xSectorSize = file_sector_size,
	.xDeviceCharacteristics = file_characteristics,
	.xShmMap = file_shm_map,
	.xShmLock = file_shm_lock,
	.xShmBarrier = file_shm_barrier,
	.xShmUnmap = file_shm_unmap,
};

/* SQLite's file system */

static struct disk *disk_of(const char *path)
{
	for (int i = 0; i < DISKS; i++) {
		size_t len = disks[i] ? strlen(disks[i]->dir) : 0;
		if (disks[i] && strncmp(path, disks[i]->dir, len) == 0 && path[len] == '/')
			return disks[i];
	}
	return NULL;
}

static struct file *find(struct disk *d, const char *path)
{
	for (int i = 0; i < FILES; i++)
		if (d->files[i].path && strcmp(d->files[i].path, path) == 0)
			return &d->files[i];
	return NULL;
}

static struct file *add(struct disk *d, const char *path)
{
	for (int i = 0; i < FILES; i++) {
		if (d->files[i].path)
			continue;
		d->files[i].path = strdup(path);
		return d->files[i].path ? &d->files[i] : NULL;
	}
	return NULL;
}

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *ret_flags)
{
	(void)vfs;
	struct handle *h = (struct handle *)file;
	h->base.pMethods = NULL;
	struct disk *d = path ? disk_of(path) : NULL;
	struct file *f = d ? find(d, path) : NULL;
	if (d && !f)
		f = add(d, path);
	if (!f)
		return SQLITE_CANTOPEN;
	f->medium.now.exists = true;
	*h = (struct handle){ .base = { &methods }, .disk = d, .file = f };
	if (ret_flags)
		*ret_flags = flags;
	return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_directory)
{
	(void)vfs;
	(void)sync_directory;
	struct disk *d = disk_of(path);
	struct file *f = d ? find(d, path) : NULL;
	if (!f || !f->medium.now.exists)
		return SQLITE_IOERR_DELETE_NOENT;
	if (operation(d))
		return SQLITE_IOERR_DELETE;
	medium_remove(&f->medium);
	return SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *ret_there)
{
	(void)vfs;
	(void)flags;
	struct disk *d = disk_of(path);
	const struct file *f = d ? find(d, path) : NULL;
	*ret_there = f && f->medium.now.exists;
	return SQLITE_OK;
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *path, int size, char *out)
{
	(void)vfs;
	int n = snprintf(out, (size_t)size, "%s", path);
	return n >= 0 && n < size ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int vfs_randomness(sqlite3_vfs *vfs, int n, char *out)
{
	(void)vfs;
	memset(out, 7, (size_t)n); /* a seed of SQLite's own generator */
	return n;
}

static int vfs_sleep(sqlite3_vfs *vfs, int us)
{
	(void)vfs;
	return us;
}

static int vfs_current_time(sqlite3_vfs *vfs, double *ret_time)
{
	(void)vfs;
	*ret_time = 0;
	return SQLITE_OK;
}

void disk_install(void)
{
	static sqlite3_vfs vfs = {
		.iVersion = 1,
		.szOsFile = sizeof(struct handle),
		.mxPathname = 1024,
		.zName = "simulation",
		.xOpen = vfs_open,
		.xDelete = vfs_delete,
		.xAccess = vfs_access,
		.xFullPathname = vfs_full_pathname,
		.xRandomness = vfs_randomness,
		.xSleep = vfs_sleep,
		.xCurrentTime = vfs_current_time,
	};
	if (sqlite3_vfs_register(&vfs, 1) != SQLITE_OK)
		abort();
}

struct disk *disk_new(struct sim *s, const char *dir)
{
	struct disk *d = sim_alloc(sizeof *d);
	d->sim = s;
	d->dir = dir;
	d->guard_len = -1;
	int i = 0;
	while (disks[i])
		i++;
	disks[i] = d;
	return d;
}

void disk_free(struct disk *d)
{
	for (int i = 0; i < FILES; i++) {
		free(d->files[i].path);
		medium_free(&d->files[i].medium);
	}
	free_shm(d);
	for (int i = 0; i < DISKS; i++)
		if (disks[i] == d)
			disks[i] = NULL;
	free(d);
}
