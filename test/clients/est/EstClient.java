import java.io.BufferedReader;
import java.io.FileReader;
import java.io.InputStreamReader;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Set;
import javax.net.ssl.KeyManagerFactory;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTException;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JcaJceUtils;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.openssl.jcajce.JcaPEMWriter;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;
import org.bouncycastle.util.io.pem.PemObject;

/**
 * Bouncy Castle's EST client for a test to talk to. Each line on standard input is one request, each on standard output its
 * answer: words with a space between, "-" for what is not there.
 *
 *   operation label token certificateFile keyFile commonName  ->  status [base64 of PEM]
 */
public class EstClient {
  private final String server;
  private final X509Certificate anchor;

  EstClient(String server, String trustFile) throws Exception {
    this.server = server;
    this.anchor = readCertificates(trustFile).get(0);
  }

  public static void main(String[] args) throws Exception {
    Security.addProvider(new BouncyCastleProvider());
    var client = new EstClient(args[0], args[1]);
    var lines = new BufferedReader(new InputStreamReader(System.in));
    for (var line = lines.readLine(); line != null; line = lines.readLine()) {
      System.out.println(client.answer(line.split(" ")));
    }
  }

  private String answer(String[] words) {
    try {
      var service = connect(words[1], words[3], words[4]);
      switch (words[0]) {
        case "cacerts":
          return "200 " + pem(service.getCACerts().getCertificateStore().getMatches(null).toArray());
        case "csrattrs":
          return "200 " + attributes(service);
        default:
          return enrol(service, words);
      }
    } catch (ESTException refused) {
      // It has a status when the server gave one; else the client did not like what it met.
      return refused.getStatusCode() > 0 ? String.valueOf(refused.getStatusCode()) : describe(refused);
    } catch (Exception fault) {
      return describe(fault);
    }
  }

  private static String describe(Throwable fault) {
    var causes = new StringBuilder("fault");
    for (var cause = fault; cause != null; cause = cause.getCause()) {
      causes.append(" ").append(cause.toString().replaceAll("\\s+", " "));
    }
    return causes.toString();
  }

  private ESTService connect(String label, String certificateFile, String keyFile) throws Exception {
    var trust = JcaJceUtils.getCertPathTrustManager(Set.of(new TrustAnchor(anchor, null)), null);
    var builder = new JsseESTServiceBuilder(server, trust);
    if (!label.equals("-")) builder.withLabel(label);
    if (!certificateFile.equals("-")) {
      var keys = KeyStore.getInstance("PKCS12");
      keys.load(null, null);
      keys.setKeyEntry("device", readKey(keyFile), new char[0], readCertificates(certificateFile).toArray(new X509Certificate[0]));
      var managers = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      managers.init(keys, new char[0]);
      builder.withKeyManagers(managers.getKeyManagers());
    }
    return builder.build();
  }

  private String enrol(ESTService service, String[] words) throws Exception {
    var generator = KeyPairGenerator.getInstance("EC");
    generator.initialize(new ECGenParameterSpec("secp256r1"));
    var pair = generator.generateKeyPair();
    ESTAuth auth = words[2].equals("-") ? null : new JcaHttpAuthBuilder("", words[2].toCharArray()).build();
    EnrollmentResponse answer = service.simpleEnroll(words[0].equals("simplereenroll"), request(pair, words[5]), auth);
    if (!answer.isCompleted()) return "202";
    var issued = new ArrayList<Object>(answer.getStore().getMatches(null));
    issued.add(new PemObject("PRIVATE KEY", pair.getPrivate().getEncoded()));
    return "200 " + pem(issued.toArray());
  }

  private static PKCS10CertificationRequest request(KeyPair pair, String commonName) throws Exception {
    var signer = new JcaContentSignerBuilder("SHA256withECDSA").build(pair.getPrivate());
    return new JcaPKCS10CertificationRequestBuilder(new X500Name("CN=" + commonName), pair.getPublic()).build(signer);
  }

  /** The object identifiers that a request is to be made with. */
  private static String attributes(ESTService service) throws Exception {
    var asked = service.getCSRAttributes().getAttributesResponse();
    var names = new ArrayList<String>();
    for (ASN1ObjectIdentifier id : asked.getRequirements()) names.add(id.getId());
    return Base64.getEncoder().encodeToString(String.join(" ", names).getBytes(StandardCharsets.UTF_8));
  }

  private static String pem(Object[] things) throws Exception {
    var text = new StringWriter();
    try (var writer = new JcaPEMWriter(text)) {
      for (Object thing : things) writer.writeObject(thing);
    }
    return Base64.getEncoder().encodeToString(text.toString().getBytes(StandardCharsets.UTF_8));
  }

  private static List<X509Certificate> readCertificates(String file) throws Exception {
    var found = new ArrayList<X509Certificate>();
    try (var parser = new PEMParser(new FileReader(file))) {
      for (Object one = parser.readObject(); one != null; one = parser.readObject()) {
        found.add(new JcaX509CertificateConverter().getCertificate((X509CertificateHolder) one));
      }
    }
    return found;
  }

  private static PrivateKey readKey(String file) throws Exception {
    try (var parser = new PEMParser(new FileReader(file))) {
      return new JcaPEMKeyConverter().getPrivateKey((PrivateKeyInfo) parser.readObject());
    }
  }
}
