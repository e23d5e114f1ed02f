package streams;

import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Arrays;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ChecksumFs;
import org.apache.hadoop.fs.DelegateToFileSystem;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Options;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * Hadoop's local file system, whose renaming replaces nothing, asking Java for what it otherwise starts a process for, where its native library is not
 * there (it is not in PySpark): `chmod` for each file that is made, and `readlink` twice for both names of each that is
 * renamed. With its checksum, a file of a checkpoint or of Delta's log cost some ten processes.
 */
public class LocalFiles extends LocalFileSystem {

  public LocalFiles() {
    super(new Raw());
  }

  public static class Raw extends RawLocalFileSystem {

    public void setPermission(Path path, FsPermission permission) throws IOException {
      if (permission.getStickyBit()) {
        super.setPermission(path, permission); // Java has no name for it
        return;
      }
      String symbols =
          permission.getUserAction().SYMBOL + permission.getGroupAction().SYMBOL + permission.getOtherAction().SYMBOL;
      try {
        Files.setPosixFilePermissions(pathToFile(path).toPath(), PosixFilePermissions.fromString(symbols));
      } catch (UnsupportedOperationException error) {
        super.setPermission(path, permission); // Windows
      }
    }

    /**
     * Where nothing may be replaced, Hadoop looks whether the name is free and then renames, which replaces what another
     * process has put there in between: a version of Delta's log, or a batch of a checkpoint. A link fails then.
     */
    protected void rename(Path from, Path to, Options.Rename... options) throws IOException {
      File source = pathToFile(from);
      if (Arrays.asList(options).contains(Options.Rename.OVERWRITE) || !source.isFile()) {
        super.rename(from, to, options);
        return;
      }
      try {
        Files.createLink(pathToFile(to).toPath(), source.toPath());
      } catch (FileAlreadyExistsException error) {
        throw new org.apache.hadoop.fs.FileAlreadyExistsException(to + " is there already");
      } catch (NoSuchFileException error) {
        throw new FileNotFoundException(from + " or the folder of " + to + " is not there");
      } catch (FileSystemException error) {
        super.rename(from, to, options); // a disk that has no links
        return;
      } catch (UnsupportedOperationException error) {
        super.rename(from, to, options);
        return;
      }
      Files.delete(source.toPath());
    }

    public FileStatus getFileLinkStatus(Path path) throws IOException {
      return Files.isSymbolicLink(pathToFile(path).toPath()) ? super.getFileLinkStatus(path) : getFileStatus(path);
    }
  }

  /** The same for those that ask by a `FileContext`: Spark's checkpoints. */
  public static class Context extends ChecksumFs {

    public Context(URI uri, Configuration conf) throws IOException, URISyntaxException {
      super(new RawContext(conf));
    }
  }

  static class RawContext extends DelegateToFileSystem {

    RawContext(Configuration conf) throws IOException, URISyntaxException {
      super(URI.create("file:///"), new Raw(), conf, "file", false);
    }

    public int getUriDefaultPort() {
      return -1;
    }

    public boolean isValidName(String name) {
      return true; // the operating system decides, as in Hadoop's own
    }
  }
}
