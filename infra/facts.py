"""What is true of AWS and its Kubernetes, whatever a stack's settings say."""

SERVICES_CIDR = "172.20.0.0/16"  # the addresses of Kubernetes Services in every cluster; CoreDNS is its .10
UNSUPPORTED_ZONES = ("use1-az3", "usw1-az2", "cac1-az3")  # no EKS control plane there: the same id in every account
# What nodes ask of AWS itself, and so what `nat: none` has to reach by endpoints; S3 has its own, which costs nothing.
ENDPOINTS = ("ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "elasticloadbalancing", "logs", "sts")
# Of a VPC, RFC 1918 and RFC 6598.
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
POD_IDENTITY = "169.254.170.23/32"  # where pods on EKS fetch the credentials of their role, on port 80
