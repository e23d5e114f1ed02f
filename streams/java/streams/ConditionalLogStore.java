package streams;

import io.delta.storage.S3SingleDriverLogStore;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.Iterator;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/**
 * Delta's log in S3 for several writers: a version is put on the condition that it is not there, which S3 decides.
 *
 * Delta's own store for S3 looks whether the version is there and then writes it, so that of two drivers that do so in
 * the same moment the second replaces the commit of the first, in silence.
 *
 * Where the client or the bucket knows no conditions nothing is written, and the error says so.
 */
public class ConditionalLogStore extends S3SingleDriverLogStore {

  public ConditionalLogStore(Configuration conf) {
    super(conf);
  }

  public void write(Path path, Iterator<String> actions, Boolean overwrite, Configuration conf) throws IOException {
    if (overwrite.booleanValue()) {
      super.write(path, actions, overwrite, conf);
      return;
    }
    FileSystem system = path.getFileSystem(conf);
    MessageDigest written = sha256();
    // Outside of the block below: what fails here has written nothing.
    FSDataOutputStream file =
        (FSDataOutputStream)
            system.createFile(path).create().must("fs.option.create.conditional.overwrite", true).build();
    try {
      try {
        while (actions.hasNext()) {
          byte[] line = ((String) actions.next() + "\n").getBytes(StandardCharsets.UTF_8);
          written.update(line);
          file.write(line);
        }
      } catch (RuntimeException error) {
        file.abort();
        throw error;
      }
      file.close();
    } catch (IOException error) {
      // Whatever went wrong, S3 knows who has the version. An answer that was lost has had the client ask again, and
      // then it is our own commit that stands in its way.
      if (!system.exists(path)) {
        throw error;
      }
      if (!Arrays.equals(digestOf(system, path), written.digest())) {
        FileAlreadyExistsException taken = new FileAlreadyExistsException(path.toString());
        taken.initCause(error);
        throw taken;
      }
    }
  }

  private static byte[] digestOf(FileSystem system, Path path) throws IOException {
    MessageDigest there = sha256();
    byte[] buffer = new byte[65536];
    InputStream in = system.open(path);
    try {
      for (int length = in.read(buffer); length >= 0; length = in.read(buffer)) {
        there.update(buffer, 0, length);
      }
    } finally {
      in.close();
    }
    return there.digest();
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException error) {
      throw new IllegalStateException(error);
    }
  }
}
